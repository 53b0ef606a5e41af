# The last resort: what is exported each night lies in another project and another region under another key, and can be
# changed or taken away by nobody before its time, whoever has taken over the environment. Reports of rehearsals lie beside.

variable "offsite_project" {
  description = "The project of the off-site backup; nothing else is in it, and nobody of the environment owns it."
  type        = string
}

variable "offsite_days" {
  description = "For how many days nobody can delete what was exported."
  type        = number
  validation {
    condition     = var.offsite_days >= 1 && var.offsite_days <= 90
    error_message = "1 to 90 days: exports are deleted after 90."
  }
}

data "google_project" "offsite" {
  project_id = var.offsite_project
}

resource "google_project_service" "offsite" {
  for_each           = toset(["cloudkms", "sqladmin", "storage"])
  project            = var.offsite_project
  service            = "${each.value}.googleapis.com"
  disable_on_destroy = false
}

resource "google_kms_key_ring" "offsite" {
  project    = var.offsite_project
  name       = var.name
  location   = var.regions["second"]
  depends_on = [google_project_service.offsite]
}

resource "google_kms_crypto_key" "offsite" {
  name                       = "exports"
  key_ring                   = google_kms_key_ring.offsite.id
  rotation_period            = "7776000s"
  destroy_scheduled_duration = "2592000s"
  lifecycle {
    prevent_destroy = true
  }
}

resource "google_kms_crypto_key_iam_member" "offsite" {
  crypto_key_id = google_kms_crypto_key.offsite.id
  role          = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
  member        = "serviceAccount:service-${data.google_project.offsite.number}@gs-project-accounts.iam.gserviceaccount.com"
}

resource "google_storage_bucket" "offsite" {
  #checkov:skip=CKV_GCP_62:who looked into it is in the off-site project's own audit logs
  #checkov:skip=CKV_GCP_78:retention forbids what versions would undo
  project                     = var.offsite_project
  name                        = "${var.offsite_project}-exports"
  location                    = var.regions["second"]
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = var.deletion
  encryption {
    default_kms_key_name = google_kms_crypto_key_iam_member.offsite.crypto_key_id
  }
  retention_policy {
    retention_period = tostring(var.offsite_days * 86400)
    is_locked        = !var.deletion
  }
  lifecycle_rule {
    action {
      type = "Delete"
    }
    condition {
      age            = 90
      matches_prefix = ["exports/"]
    }
  }
}

output "offsite" {
  description = "The bucket of the nightly exports and of the reports of rehearsals."
  value       = google_storage_bucket.offsite.name
}

output "offsite_number" {
  description = "The number of the off-site project."
  value       = data.google_project.offsite.number
}
