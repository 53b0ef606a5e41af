# All of an environment, from what an environment chooses (environments/).

terraform {
  required_version = ">= 1.9"
  required_providers {
    google = { source = "hashicorp/google", version = "~> 7.45" }
  }
}

variable "project" {
  description = "The project of the environment; nothing else is in it."
  type        = string
}

variable "environment" {
  description = "test, staging or production: what the functions say they are."
  type        = string
  validation {
    condition     = contains(["test", "staging", "production"], var.environment)
    error_message = "test, staging or production."
  }
}

variable "regions" {
  description = "The region that serves, and the one that stands by."
  type        = object({ primary = string, second = string })
}

variable "primary_region" {
  description = "primary, or second after a switch-over: where requests go and which database is written to."
  type        = string
}

variable "ranges" {
  description = "The ranges of addresses: of the functions in both regions, and of the database's network."
  type        = object({ primary = string, second = string, services = string })
}

variable "hosts" {
  description = "The names of the web, of the APIs and of the door for hospitals."
  type        = object({ web = string, api = string, hl7 = string })
}

variable "oldest_hl7_tls" {
  description = "The oldest TLS that hospitals may speak."
  type        = string
}

variable "rules_preview" {
  description = "Whether the OWASP rules only count."
  type        = bool
}

variable "hscn" {
  description = "The hospitals' door on HSCN (module edge); null for none."
  type        = object({ host = string, range = string, proxies = string })
}

variable "image" {
  description = "The image that a service is made with; from then on the pipeline changes it."
  type        = string
}

variable "functions" {
  description = "By function how many instances, requests at once and connections of each."
  type = map(object({
    min_instances = number
    max_instances = number
    concurrency   = number
    pool_size     = number
  }))
}

variable "database" {
  description = "The machine, its disk at first, its connections, and for how many days a moment can be restored."
  type        = object({ tier = string, disk_gb = number, max_connections = number, wal_days = number })
}

variable "secrets" {
  description = "By secret the version that is mounted (by number: going back takes the secret back too)."
  type        = map(string)
}

variable "settings" {
  description = "Further settings of the functions (carefolio.cloud.settings), such as SMTP_URL and PDS_URL."
  type        = map(string)
}

variable "mail" {
  description = "Who is woken: an e-mail address."
  type        = string
}

variable "audit_days" {
  description = "How long it is kept who did what to the platform."
  type        = number
}

variable "protected" {
  description = "Whether what holds data cannot be destroyed; off where re-provisioning is rehearsed."
  type        = bool
}

locals {
  name    = "carefolio"
  regions = { primary = var.regions.primary, second = var.regions.second }
  # What each function needs, as its code has it.
  needs = {
    hl7        = { secrets = ["token-signing-keys", "identity-key", "ordering-key"], files = false, publishes = true, agreements = "none" }
    login      = { secrets = ["token-signing-keys", "identity-key"], files = false, publishes = true, agreements = "none" }
    fhir       = { secrets = ["token-signing-keys", "identity-key"], files = false, publishes = true, agreements = "none" }
    api        = { secrets = ["token-signing-keys", "identity-key", "ordering-key", "pds-key"], files = true, publishes = true, agreements = "keep" }
    portal     = { secrets = ["identity-key", "ordering-key", "pds-key"], files = true, publishes = true, agreements = "none" }
    ingest     = { secrets = ["identity-key"], files = false, publishes = true, agreements = "none" }
    notify     = { secrets = ["identity-key", "smtp-password"], files = false, publishes = true, agreements = "none" }
    emis_fetch = { secrets = [], files = true, publishes = true, agreements = "read" }
    emis_load  = { secrets = ["ordering-key"], files = true, publishes = true, agreements = "read" }
    operations = { secrets = [], files = true, publishes = true, agreements = "none" }
  }
  # EMIS allows fixed addresses alone; extracts take memory and time.
  shapes = {
    emis_fetch = { everywhere = true, memory = "2Gi", timeout = "1800s" }
    emis_load  = { everywhere = false, memory = "2Gi", timeout = "600s" }
    operations = { everywhere = false, memory = "1Gi", timeout = "1800s" }
    ingest     = { everywhere = false, memory = "1Gi", timeout = "600s" }
  }
  functions = { for name, each in var.functions : name => merge(each, { secrets = local.needs[name].secrets }, lookup(local.shapes, name, {})) }
  audience  = "https://internal.${var.hosts.api}"
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
  }, var.settings)
}

data "google_project" "here" {
  project_id = var.project
}

resource "google_project_service" "needed" {
  for_each = toset([
    "artifactregistry", "certificatemanager", "cloudkms", "cloudresourcemanager", "iam", "cloudscheduler", "cloudtrace", "compute", "logging", "monitoring", "pubsub", "run",
    "secretmanager", "servicenetworking", "sqladmin", "storage",
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
  source  = "../keys"
  project = var.project
  name    = local.name
  regions = local.regions
}

module "network" {
  source         = "../network"
  project        = var.project
  name           = local.name
  regions        = local.regions
  ranges         = { primary = var.ranges.primary, second = var.ranges.second }
  services_range = var.ranges.services
}

module "storage" {
  source   = "../storage"
  project  = var.project
  name     = local.name
  region   = local.regions.primary
  key      = module.keys.keys["primary-files"]
  deletion = !var.protected
}

module "identity" {
  source    = "../identity"
  project   = var.project
  name      = local.name
  regions   = local.regions
  keys      = module.keys.keys
  functions = local.needs
  bucket    = module.storage.bucket
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
    REGION       = each.value
    FUNCTION_URL = "https://${local.name}-{function}-${data.google_project.here.number}.${each.value}.run.app"
  })
  secrets             = var.secrets
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
  services       = { for role, each in module.services : role => each.addresses }
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
  services       = module.services["primary"].names
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
