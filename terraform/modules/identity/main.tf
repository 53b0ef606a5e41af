# Who the functions are and what each may do: an account for each with no key, secrets that only its users read.

terraform {
  required_version = ">= 1.9"
  required_providers {
    google = { source = "hashicorp/google", version = "~> 7.45" }
  }
}

variable "project" {
  description = "The project of the environment."
  type        = string
}

variable "name" {
  description = "What everything of the environment is called by."
  type        = string
}

variable "regions" {
  description = "By role (primary, second) the region: secrets lie in both."
  type        = map(string)
}

variable "keys" {
  description = "The keys, by role and kind (module keys)."
  type        = map(string)
}

variable "functions" {
  description = "By function (and command, which is what an operator types) the secrets that it reads, and whether it has files, publishes, reads agreements' keys, keeps their jobs, or keeps both."
  type = map(object({
    secrets    = list(string)
    files      = bool
    publishes  = bool
    agreements = string
  }))
  validation {
    condition     = alltrue([for each in values(var.functions) : contains(["none", "read", "jobs", "keep"], each.agreements)])
    error_message = "agreements is none, read, jobs or keep."
  }
}

variable "bucket" {
  description = "Where the functions' files are."
  type        = string
}

variable "copies" {
  description = "The buckets of the copies of what hospitals send."
  type        = list(string)
}

variable "offsite" {
  description = "The bucket of the nightly exports, in a project of its own."
  type        = string
}

variable "topics" {
  description = "The topics that are published to."
  type        = map(string)
}

data "google_project" "here" {
  project_id = var.project
}

locals {
  callers = merge(var.functions, { caller = null, migrate = null })
  # The database, and spans of what was done.
  everyone = ["roles/cloudsql.client", "roles/cloudsql.instanceUser", "roles/telemetry.tracesWriter"]
  rights   = merge([for name in setunion(keys(var.functions), ["migrate"]) : { for role in local.everyone : "${name} ${role}" => { name = name, role = role } }]...)
  secrets  = toset(flatten([for each in values(var.functions) : each.secrets]))
  readers  = merge([for name, each in var.functions : { for secret in each.secrets : "${name} ${secret}" => { name = name, secret = secret } }]...)
  # The doors of hospitals and of FHIR messages write copies and never change one; operations and operators read them, to put back what was lost.
  copying = merge([for bucket in var.copies : {
    for name, role in { hl7 = "roles/storage.objectCreator", fhir = "roles/storage.objectCreator", operations = "roles/storage.objectViewer", command = "roles/storage.objectViewer" } :
    "${name} ${bucket}" => { name = name, role = role, bucket = bucket }
  }]...)
  publishes = merge([for name, each in var.functions : each.publishes ? { for topic, id in var.topics : "${name} ${topic}" => { name = name, topic = id } } : {}]...)
  of_agreements = {
    title      = "keys of sharing agreements"
    expression = "resource.name.startsWith('projects/${data.google_project.here.number}/secrets/emis-')"
  }
}

resource "google_service_account" "account" {
  for_each     = local.callers
  project      = var.project
  account_id   = "${var.name}-${replace(each.key, "_", "-")}"
  display_name = lookup({ caller = "Pub/Sub's and the clock's calls", command = "What operators type" }, each.key, "Function ${each.key}")
}

resource "google_project_iam_member" "everyone" {
  for_each = local.rights
  project  = var.project
  role     = each.value.role
  member   = google_service_account.account[each.value.name].member
}

resource "google_secret_manager_secret" "secret" {
  for_each            = local.secrets
  project             = var.project
  secret_id           = each.value
  deletion_protection = false
  # Nobody turns it by itself: that it is time is told (module watch).
  topics {
    name = google_pubsub_topic.turn.id
  }
  rotation {
    rotation_period    = "31536000s"
    next_rotation_time = "2027-11-01T09:00:00Z"
  }
  lifecycle {
    ignore_changes = [rotation[0].next_rotation_time]
  }
  depends_on = [google_pubsub_topic_iam_member.turn]
  replication {
    user_managed {
      dynamic "replicas" {
        for_each = var.regions
        content {
          location = replicas.value
          customer_managed_encryption {
            kms_key_name = var.keys["${replicas.key}-secrets"]
          }
        }
      }
    }
  }
}

resource "google_pubsub_topic" "turn" {
  project      = var.project
  name         = "secret-to-turn"
  kms_key_name = var.keys["both-messages"]
  message_storage_policy {
    allowed_persistence_regions = values(var.regions)
  }
}

resource "google_pubsub_topic_iam_member" "turn" {
  project = var.project
  topic   = google_pubsub_topic.turn.name
  role    = "roles/pubsub.publisher"
  member  = "serviceAccount:service-${data.google_project.here.number}@gcp-sa-secretmanager.iam.gserviceaccount.com"
}

resource "google_secret_manager_secret_iam_member" "reader" {
  for_each  = local.readers
  project   = var.project
  secret_id = google_secret_manager_secret.secret[each.value.secret].secret_id
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.account[each.value.name].member
}

resource "google_pubsub_topic_iam_member" "publisher" {
  for_each = local.publishes
  project  = var.project
  topic    = each.value.topic
  role     = "roles/pubsub.publisher"
  member   = google_service_account.account[each.value.name].member
}

resource "google_storage_bucket_iam_member" "files" {
  for_each = { for name, each in var.functions : name => each if each.files }
  bucket   = var.bucket
  role     = "roles/storage.objectUser"
  member   = google_service_account.account[each.key].member
}

# A profile that an operator asked for (carefolio.cloud.profiling) is written by the function itself.
resource "google_storage_bucket_iam_member" "profiles" {
  for_each = { for name, each in var.functions : name => each if !each.files }
  bucket   = var.bucket
  role     = "roles/storage.objectCreator"
  member   = google_service_account.account[each.key].member
  condition {
    title      = "profiles"
    expression = "resource.name.startsWith('projects/_/buckets/${var.bucket}/objects/profiles/')"
  }
}

resource "google_storage_bucket_iam_member" "copies" {
  for_each = local.copying
  bucket   = each.value.bucket
  role     = each.value.role
  member   = google_service_account.account[each.value.name].member
}

# Operations have the database exported there, look whether it was, and file reports; nobody may take away.
resource "google_storage_bucket_iam_member" "offsite" {
  for_each = toset(["roles/storage.objectCreator", "roles/storage.objectViewer"])
  bucket   = var.offsite
  role     = each.value
  member   = google_service_account.account["operations"].member
}

resource "google_project_iam_custom_role" "export" {
  project     = var.project
  role_id     = "exportDatabase"
  title       = "Export the database, and see its backups"
  permissions = ["cloudsql.instances.export", "cloudsql.instances.get", "cloudsql.backupRuns.list"]
}

resource "google_project_iam_member" "export" {
  project = var.project
  role    = google_project_iam_custom_role.export.id
  member  = google_service_account.account["operations"].member
}

# An agreement's keys and its job come and go at run time.
resource "google_project_iam_member" "agreements" {
  for_each = { for name, each in var.functions : name => each if contains(["read", "keep"], each.agreements) }
  project  = var.project
  role     = each.value.agreements == "keep" ? "roles/secretmanager.admin" : "roles/secretmanager.secretAccessor"
  member   = google_service_account.account[each.key].member
  condition {
    title      = local.of_agreements.title
    expression = local.of_agreements.expression
  }
}

# Making one is a right on the project, which no condition on a name can narrow.
resource "google_project_iam_custom_role" "make_secrets" {
  project     = var.project
  role_id     = "makeSecrets"
  title       = "Make secrets"
  permissions = ["secretmanager.secrets.create"]
}

resource "google_project_iam_member" "make_secrets" {
  for_each = { for name, each in var.functions : name => each if each.agreements == "keep" }
  project  = var.project
  role     = google_project_iam_custom_role.make_secrets.id
  member   = google_service_account.account[each.key].member
}

# Operations keep the hospitals' networks at the load balancer (carefolio.cloud.edge).
resource "google_project_iam_custom_role" "admit_senders" {
  project     = var.project
  role_id     = "admitSenders"
  title       = "Keep the rules of a security policy"
  permissions = ["compute.securityPolicies.get", "compute.securityPolicies.update", "compute.globalOperations.get"]
}

resource "google_project_iam_member" "admit_senders" {
  project = var.project
  role    = google_project_iam_custom_role.admit_senders.id
  member  = google_service_account.account["operations"].member
}

resource "google_project_iam_member" "jobs" {
  for_each = { for name, each in var.functions : name => each if contains(["jobs", "keep"], each.agreements) }
  project  = var.project
  role     = "roles/cloudscheduler.admin"
  member   = google_service_account.account[each.key].member
}

resource "google_service_account_iam_member" "jobs" {
  for_each           = { for name, each in var.functions : name => each if contains(["jobs", "keep"], each.agreements) }
  service_account_id = google_service_account.account["caller"].name
  role               = "roles/iam.serviceAccountUser"
  member             = google_service_account.account[each.key].member
}

output "accounts" {
  description = "E-mail addresses of the accounts, by function (and caller, migrate)."
  value       = { for name, account in google_service_account.account : name => account.email }
}
