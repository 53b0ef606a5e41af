# Staging: what it chooses; all else is modules/platform.

terraform {
  required_version = ">= 1.9"
  required_providers {
    google = { source = "hashicorp/google", version = "~> 7.45" }
  }
}

provider "google" {
  project = "carefolio-staging"
  # Whose quota, and whose list of services, a call of a person counts against.
  billing_project       = "carefolio-staging"
  user_project_override = true
}

variable "primary_region" {
  description = "primary, or second after a switch-over (docs/runbooks)."
  type        = string
  default     = "primary"
}

variable "image" {
  description = "The image that services are made with; from then on the pipeline changes it."
  type        = string
  default     = "europe-west2-docker.pkg.dev/carefolio-delivery/carefolio/carefolio:first"
}

module "platform" {
  source         = "../../modules/platform"
  project        = "carefolio-staging"
  environment    = "staging"
  regions        = { primary = "europe-west2", second = "europe-west1" }
  primary_region = var.primary_region
  ranges         = { primary = "10.20.0.0/22", second = "10.20.4.0/22", services = "10.20.128.0/20" }
  hosts          = { web = "www.staging.carefolio.example", api = "api.staging.carefolio.example", hl7 = "hl7.staging.carefolio.example" }
  oldest_hl7_tls = "TLS_1_0"
  rules_preview  = true
  hscn           = null
  image          = var.image
  files_location = "EUR5"
  offsite        = { project = "carefolio-staging-offsite", days = 1 }
  delivery       = { project = "carefolio-delivery", number = "100000000001" }
  perimeter      = { policy = "100000000000", visitors = ["serviceAccount:deployer-staging@carefolio-delivery.iam.gserviceaccount.com", "group:operators@carefolio.example"] }
  budget         = { account = "000000-000000-000000", monthly = 3000 }
  scanner        = "europe-west2-docker.pkg.dev/carefolio-delivery/others/clamav/clamav:1.4"
  trace_share    = 0.1
  database       = { tier = "db-perf-optimized-N-4", disk_gb = 100, max_connections = 1000, wal_days = 14 }
  secrets = {
    token-signing-keys = "1"
    identity-key       = "1"
    ordering-key       = "1"
    pds-key            = "1"
    smtp-password      = "1"
  }
  settings   = { MAIL_FROM = "Carefolio <no-reply@staging.carefolio.example>", SMTP_URL = "smtps://carefolio@smtp.example:465" }
  audit_days = 400
  mail       = "on-call@staging.carefolio.example"
  protected  = true
  functions = {
    hl7        = { min_instances = 1, max_instances = 6, concurrency = 40, pool_size = 5 }
    login      = { min_instances = 1, max_instances = 6, concurrency = 40, pool_size = 5 }
    fhir       = { min_instances = 1, max_instances = 10, concurrency = 40, pool_size = 8 }
    api        = { min_instances = 1, max_instances = 6, concurrency = 40, pool_size = 5 }
    portal     = { min_instances = 1, max_instances = 6, concurrency = 40, pool_size = 5 }
    ingest     = { min_instances = 1, max_instances = 8, concurrency = 8, pool_size = 8 }
    notify     = { min_instances = 1, max_instances = 4, concurrency = 40, pool_size = 3 }
    emis_fetch = { min_instances = 0, max_instances = 4, concurrency = 1, pool_size = 2 }
    emis_load  = { min_instances = 0, max_instances = 8, concurrency = 1, pool_size = 4 }
    jobs       = { min_instances = 0, max_instances = 2, concurrency = 2, pool_size = 4 }
    operations = { min_instances = 1, max_instances = 2, concurrency = 4, pool_size = 2 }
  }
}

output "addresses" {
  description = "By host the address for its record in DNS."
  value       = module.platform.addresses
}

output "out" {
  description = "The addresses that requests of ours come from: EMIS allows both before they are needed."
  value       = module.platform.out
}
