# What messages, extracts and people bring, the seals of the audit trail, and who looked into the bucket itself.

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

variable "region" {
  description = "Where the files are."
  type        = string
}

variable "key" {
  description = "The key of files."
  type        = string
}

variable "deletion" {
  description = "Whether buckets with contents may be destroyed: for environments that are rehearsed."
  type        = bool
}

resource "google_storage_bucket" "files" {
  project                     = var.project
  name                        = "${var.project}-${var.name}-files"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = var.deletion
  encryption {
    default_kms_key_name = var.key
  }
  versioning {
    enabled = true
  }
  lifecycle_rule {
    action {
      type = "Delete"
    }
    condition {
      num_newer_versions = 3
      with_state         = "ARCHIVED"
    }
  }
  logging {
    log_bucket = google_storage_bucket.access_logs.name
  }
}

resource "google_storage_bucket" "access_logs" {
  #checkov:skip=CKV_GCP_62:it holds the access logs
  project                     = var.project
  name                        = "${var.project}-${var.name}-access-logs"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = var.deletion
  encryption {
    default_kms_key_name = var.key
  }
  versioning {
    enabled = true
  }
  lifecycle_rule {
    action {
      type = "Delete"
    }
    condition {
      age = 400
    }
  }
}

# Who writes them: Google's own group.
resource "google_storage_bucket_iam_member" "access_logs" {
  bucket = google_storage_bucket.access_logs.name
  role   = "roles/storage.objectCreator"
  member = "group:cloud-storage-analytics@google.com"
}

output "bucket" {
  description = "The bucket of the files."
  value       = google_storage_bucket.files.name
}
