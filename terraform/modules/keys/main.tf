# Customer-managed keys: a ring in each region with a key for each kind of data, one for messages in the multi-region, since
# topics outlive a region, and one for files where they are. Losing a key loses what it locked.

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
  description = "By role (primary, second) the region."
  type        = map(string)
}

variable "files_location" {
  description = "Where the files are: a pair of regions, such as EUR5."
  type        = string
}

data "google_project" "here" {
  project_id = var.project
}

locals {
  # By kind the agent of Google's that locks with it.
  agents = {
    database = "gcp-sa-cloud-sql"
    files    = "gs-project-accounts"
    messages = "gcp-sa-pubsub"
    secrets  = "gcp-sa-secretmanager"
  }
  rings = merge(var.regions, { both = "europe", pair = lower(var.files_location) })
  keys = merge({ both-messages = { role = "both", kind = "messages" }, pair-files = { role = "pair", kind = "files" } }, [
    for role in keys(var.regions) : { for kind in ["database", "files", "secrets"] : "${role}-${kind}" => { role = role, kind = kind } }
  ]...)
}

resource "google_kms_key_ring" "ring" {
  for_each = local.rings
  project  = var.project
  name     = "${var.name}-${each.key}"
  location = each.value
}

resource "google_kms_crypto_key" "key" {
  for_each                   = local.keys
  name                       = each.value.kind
  key_ring                   = google_kms_key_ring.ring[each.value.role].id
  rotation_period            = "7776000s"
  destroy_scheduled_duration = "2592000s"
  lifecycle {
    prevent_destroy = true
  }
}

resource "google_kms_crypto_key_iam_member" "agent" {
  for_each      = local.keys
  crypto_key_id = google_kms_crypto_key.key[each.key].id
  role          = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
  member        = "serviceAccount:service-${data.google_project.here.number}@${local.agents[each.value.kind]}.iam.gserviceaccount.com"
}

output "keys" {
  description = "The keys, by role and kind, such as primary-database (and both-messages), when their agents may use them."
  value       = { for name, member in google_kms_crypto_key_iam_member.agent : name => member.crypto_key_id }
}
