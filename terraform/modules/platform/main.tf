# All of an environment, from what an environment chooses (environments/).

terraform {
  required_version = ">= 1.9"
  required_providers {
    google = { source = "hashicorp/google", version = "~> 7.45" }
  }
}

locals {
  name    = "carefolio"
  regions = { primary = var.regions.primary, second = var.regions.second }
  # What each function needs, as its code has it.
  needs = {
    hl7        = { secrets = ["token-signing-keys", "identity-key", "ordering-key"], files = false, publishes = true, agreements = "none" }
    login      = { secrets = ["token-signing-keys", "identity-key"], files = false, publishes = true, agreements = "none" }
    fhir       = { secrets = ["token-signing-keys", "identity-key", "ordering-key"], files = true, publishes = true, agreements = "none" }
    api        = { secrets = ["token-signing-keys", "identity-key", "ordering-key", "pds-key"], files = true, publishes = true, agreements = "keep" }
    portal     = { secrets = ["identity-key", "ordering-key", "pds-key"], files = true, publishes = true, agreements = "none" }
    jobs       = { secrets = ["identity-key", "ordering-key"], files = true, publishes = true, agreements = "none" }
    ingest     = { secrets = ["identity-key"], files = false, publishes = true, agreements = "none" }
    notify     = { secrets = ["identity-key", "smtp-password"], files = false, publishes = true, agreements = "none" }
    emis_fetch = { secrets = [], files = true, publishes = true, agreements = "read" }
    emis_load  = { secrets = ["ordering-key"], files = true, publishes = true, agreements = "read" }
    operations = { secrets = [], files = true, publishes = true, agreements = "jobs" }
  }
  # What an operator types runs as this (docs/runbooks), and can do what the functions can.
  command = { secrets = ["token-signing-keys", "identity-key", "ordering-key"], files = true, publishes = true, agreements = "keep" }
  # EMIS allows fixed addresses alone; extracts take memory and time.
  shapes = {
    emis_fetch = { everywhere = true, memory = "2Gi", timeout = "1800s" }
    emis_load  = { everywhere = false, memory = "2Gi", timeout = "600s" }
    operations = { everywhere = false, memory = "1Gi", timeout = "1800s" }
    ingest     = { everywhere = false, memory = "1Gi", timeout = "600s" }
    jobs       = { everywhere = false, memory = "1Gi", timeout = "600s" }
  }
  # Who takes files from people and apps has the scanner beside it.
  scanned   = ["api", "portal"]
  functions = { for name, each in var.functions : name => merge(each, { secrets = local.needs[name].secrets, scanned = contains(local.scanned, name) }, lookup(local.shapes, name, {})) }
  audience  = "https://internal.${var.hosts.api}"
  # By role and function, as Cloud Run makes names and addresses: known without asking, so that the load balancer, the
  # pushes and the clock can be turned to one region while the other does not answer.
  names     = { for name in keys(var.functions) : name => "${local.name}-${replace(name, "_", "-")}" }
  addresses = { for role, region in local.regions : role => { for name, service in local.names : name => "https://${service}-${data.google_project.here.number}.${region}.run.app" } }
  environment = merge({
    ENVIRONMENT          = var.environment
    PUBLIC_URL           = "https://${var.hosts.web}"
    ALSO_AT              = "https://${var.hosts.api}"
    DATABASE_NAME        = "carefolio"
    FILES_URL            = "gs://${module.storage.bucket}"
    GOOGLE_CLOUD_PROJECT = var.project
    # Cloud Run's own front end, which is what a container sees.
    TRUSTED_PROXIES      = "169.254.0.0/16"
    PUSH_SERVICE_ACCOUNT = module.identity.accounts["caller"]
    PUSH_AUDIENCE        = local.audience
    CLOUD_SQL_INSTANCE   = module.database.connection
    HL7_POLICY           = module.edge.hl7_policy
    OFFSITE_URL          = "gs://${module.storage.offsite}"
    BACKED_UP            = module.database.writing
    SECRET_REPLICAS      = join(" ", [for role, region in local.regions : "${region}=${module.keys.keys["${role}-secrets"]}"])
    TRACE_SHARE          = tostring(var.trace_share)
    # Google's own endpoint for spans in OTLP.
    OTEL_EXPORTER_OTLP_ENDPOINT = "https://telemetry.googleapis.com"
  }, var.settings)
}

data "google_project" "here" {
  project_id = var.project
}

resource "google_project_service" "needed" {
  for_each = toset([
    "accesscontextmanager", "artifactregistry", "billingbudgets", "binaryauthorization", "certificatemanager", "cloudkms", "cloudresourcemanager", "cloudscheduler", "cloudtrace", "compute",
    "dns", "iam", "logging", "monitoring", "pubsub", "run", "secretmanager", "servicenetworking", "sqladmin", "storage", "telemetry",
  ])
  project            = var.project
  service            = "${each.value}.googleapis.com"
  disable_on_destroy = false
}

module "sizing" {
  source          = "../sizing"
  functions       = { for name, each in var.functions : name => { max_instances = each.max_instances, pool_size = each.pool_size } }
  max_connections = var.database.max_connections
}

module "keys" {
  source         = "../keys"
  project        = var.project
  name           = local.name
  regions        = local.regions
  files_location = var.files_location
}

module "network" {
  source         = "../network"
  project        = var.project
  name           = local.name
  regions        = local.regions
  ranges         = { primary = var.ranges.primary, second = var.ranges.second }
  services_range = var.ranges.services
  perimeter = var.perimeter == null ? null : {
    policy   = var.perimeter.policy
    visitors = var.perimeter.visitors
    projects = [data.google_project.here.number, module.storage.offsite_number]
    delivery = var.delivery.number
  }
}

module "storage" {
  source          = "../storage"
  project         = var.project
  name            = local.name
  regions         = local.regions
  location        = var.files_location
  keys            = module.keys.keys
  offsite_project = var.offsite.project
  offsite_days    = var.offsite.days
  deletion        = !var.protected
}

module "identity" {
  source    = "../identity"
  project   = var.project
  name      = local.name
  regions   = local.regions
  keys      = module.keys.keys
  functions = merge(local.needs, { command = local.command })
  bucket    = module.storage.bucket
  copies    = values(module.storage.copies)
  offsite   = module.storage.offsite
  attestor  = "projects/${var.delivery.project}/attestors/built-by-cloud-build"
  scanner   = var.scanner
  topics    = module.messaging.topics
}

module "database" {
  source              = "../database"
  project             = var.project
  name                = local.name
  regions             = local.regions
  primary_region      = var.primary_region
  network             = module.network.network
  keys                = module.keys.keys
  tier                = var.database.tier
  disk_gb             = var.database.disk_gb
  max_connections     = var.database.max_connections
  wal_days            = var.database.wal_days
  deletion_protection = var.protected
  offsite             = module.storage.offsite
  accounts            = { for name, email in module.identity.accounts : name => email if name != "caller" }
}

module "services" {
  source    = "../services"
  for_each  = local.regions
  project   = var.project
  name      = local.name
  region    = each.value
  image     = var.image
  functions = local.functions
  accounts  = module.identity.accounts
  subnet    = module.network.subnets[each.key]
  environment = merge(local.environment, {
    REGION = each.value
    # Where the other region is, so that losing this one loses no message; and here, where that one is lost.
    COPIES_URL   = "gs://${module.storage.copies[each.key]} gs://${module.storage.copies[each.key == "primary" ? "second" : "primary"]}"
    FUNCTION_URL = "https://${local.name}-{function}-${data.google_project.here.number}.${each.value}.run.app"
  })
  secrets             = var.secrets
  command             = local.command.secrets
  scanner             = var.scanner
  caller              = module.identity.accounts["caller"]
  audience            = local.audience
  deletion_protection = var.protected
}

module "messaging" {
  source         = "../messaging"
  project        = var.project
  regions        = local.regions
  primary_region = var.primary_region
  key            = module.keys.keys["both-messages"]
  services       = local.addresses
  caller         = module.identity.accounts["caller"]
  audience       = local.audience
}

module "edge" {
  source         = "../edge"
  project        = var.project
  name           = local.name
  regions        = local.regions
  primary_region = var.primary_region
  hosts          = var.hosts
  services       = local.names
  oldest_hl7_tls = var.oldest_hl7_tls
  rules_preview  = var.rules_preview
  network        = module.network.network
  hscn           = var.hscn
}

module "watch" {
  source        = "../watch"
  project       = var.project
  hosts         = var.hosts
  backends      = module.edge.backends
  subscriptions = module.messaging.subscriptions
  region        = local.regions.primary
  functions     = local.names
  budget        = var.budget
  audit_days    = var.audit_days
  protected     = var.protected
  mail          = var.mail
}

output "addresses" {
  description = "By host the address for its record in DNS."
  value       = module.edge.addresses
}

output "hscn" {
  description = "For the door on HSCN: what the provider is told, and the record in DNS."
  value       = { pairing_keys = module.edge.hscn_pairing_keys, record = module.edge.hscn_record }
  sensitive   = true
}

output "out" {
  description = "The addresses that requests of ours come from: EMIS allows both before they are needed."
  value       = module.network.addresses
}

output "connections" {
  description = "The most database connections that this comes to."
  value       = module.sizing.connections
}
