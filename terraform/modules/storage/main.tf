# What messages, extracts and people bring, the seals of the audit trail, and who looked into the bucket itself; and for each
# region a bucket for the copies of what hospitals sent while the other one served.

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

variable "location" {
  description = "Where the files are: a pair of regions, such as EUR5 (Belgium and London)."
  type        = string
}

variable "keys" {
  description = "The keys, by role and kind (module keys)."
  type        = map(string)
}

variable "deletion" {
  description = "Whether buckets with contents may be destroyed: for environments that are rehearsed."
  type        = bool
}

resource "google_storage_bucket" "files" {
  project                     = var.project
  name                        = "${var.project}-${var.name}-files"
  location                    = var.location
  rpo                         = "ASYNC_TURBO"
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = var.deletion
  encryption {
    default_kms_key_name = var.keys["pair-files"]
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

# A message is acknowledged when it is committed in one region and copied to the other (carefolio.recovery.copies): what a
# lost region takes with it is put back from here. Kept for longer than any moment of the database can be restored.
resource "google_storage_bucket" "copies" {
  for_each                    = var.regions
  project                     = var.project
  name                        = "${var.project}-${var.name}-copies-${each.key}"
  location                    = each.value
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = var.deletion
  encryption {
    default_kms_key_name = var.keys["${each.key}-files"]
  }
  versioning {
    enabled = true
  }
  lifecycle_rule {
    action {
      type = "Delete"
    }
    condition {
      age = 40
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
  location                    = var.location
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = var.deletion
  encryption {
    default_kms_key_name = var.keys["pair-files"]
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

output "copies" {
  description = "By role of the region that serves the bucket of its copies, which is in the other."
  value       = { for role in keys(var.regions) : role => google_storage_bucket.copies[role == "primary" ? "second" : "primary"].name }
}
