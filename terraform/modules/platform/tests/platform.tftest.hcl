mock_provider "google" {}

variables {
  project        = "carefolio-trial"
  environment    = "test"
  regions        = { primary = "europe-west2", second = "europe-west1" }
  primary_region = "primary"
  ranges         = { primary = "10.1.0.0/22", second = "10.1.4.0/22", services = "10.1.128.0/20" }
  hosts          = { web = "www.carefolio.example", api = "api.carefolio.example", hl7 = "hl7.carefolio.example" }
  oldest_hl7_tls = "TLS_1_0"
  rules_preview  = false
  hscn           = null
  image          = "image:first"
  files_location = "EUR5"
  offsite        = { project = "carefolio-trial-offsite", days = 1 }
  delivery       = { project = "carefolio-delivery", number = "1" }
  perimeter      = { policy = "1", visitors = ["group:operators@carefolio.example"] }
  budget         = { account = "000000-000000-000000", monthly = 100 }
  scanner        = "registry.example/clamav:1.4"
  trace_share    = 1
  database       = { tier = "db-perf-optimized-N-2", disk_gb = 20, max_connections = 500, wal_days = 7 }
  secrets = {
    token-signing-keys = "1"
    identity-key       = "1"
    ordering-key       = "1"
    pds-key            = "1"
    smtp-password      = "1"
  }
  settings   = {}
  mail       = "on-call@carefolio.example"
  audit_days = 400
  protected  = false
  functions = {
    hl7        = { min_instances = 0, max_instances = 3, concurrency = 40, pool_size = 5 }
    login      = { min_instances = 0, max_instances = 3, concurrency = 40, pool_size = 5 }
    fhir       = { min_instances = 0, max_instances = 5, concurrency = 40, pool_size = 8 }
    api        = { min_instances = 0, max_instances = 3, concurrency = 40, pool_size = 5 }
    portal     = { min_instances = 0, max_instances = 3, concurrency = 40, pool_size = 5 }
    ingest     = { min_instances = 0, max_instances = 4, concurrency = 8, pool_size = 8 }
    notify     = { min_instances = 0, max_instances = 2, concurrency = 8, pool_size = 3 }
    emis_fetch = { min_instances = 0, max_instances = 2, concurrency = 1, pool_size = 2 }
    emis_load  = { min_instances = 0, max_instances = 3, concurrency = 1, pool_size = 4 }
    jobs       = { min_instances = 0, max_instances = 2, concurrency = 2, pool_size = 4 }
    operations = { min_instances = 0, max_instances = 2, concurrency = 4, pool_size = 2 }
  }
}

run "all_of_it" {
  command = plan
  assert {
    condition     = output.connections == 392
    error_message = "2 x the functions' connections + 10 + 50"
  }
}

run "no_such_environment" {
  command = plan
  variables {
    environment = "trial"
  }
  expect_failures = [var.environment]
}
