# PostgreSQL: two zones, point-in-time recovery, backups in another place, a replica in the second region that takes over
# (the promise for a lost region rests on it). No public address; people and functions come by IAM.

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
  description = "By role (primary, second) the region; primary_region says which of the two instances is written to."
  type        = map(string)
}

variable "primary_region" {
  description = "primary, or second after a switch-over (done by gcloud, see docs/runbooks; this follows it)."
  type        = string
  validation {
    condition     = contains(["primary", "second"], var.primary_region)
    error_message = "primary or second."
  }
}

variable "network" {
  description = "The network in which it has its private address."
  type        = string
}

variable "keys" {
  description = "The keys, by role and kind (module keys)."
  type        = map(string)
}

variable "tier" {
  description = "The machine, such as db-perf-optimized-N-4."
  type        = string
}

variable "disk_gb" {
  description = "The disk at first; it grows by itself."
  type        = number
}

variable "max_connections" {
  description = "What the functions are sized against (module sizing)."
  type        = number
}

variable "wal_days" {
  description = "How far back a point in time can be restored."
  type        = number
  validation {
    condition     = var.wal_days >= 7 && var.wal_days <= 35
    error_message = "The client's document asks for 7 days or more; Cloud SQL keeps at most 35."
  }
}

variable "deletion_protection" {
  description = "Off where an environment is rehearsed."
  type        = bool
}

variable "offsite" {
  description = "The bucket that the database is exported to each night."
  type        = string
}

variable "accounts" {
  description = "E-mail addresses of the service accounts that sign in, by function."
  type        = map(string)
}

locals {
  other = var.primary_region == "primary" ? "second" : "primary"
  flags = {
    "cloudsql.iam_authentication"       = "on"
    max_connections                     = tostring(var.max_connections)
    default_toast_compression           = "lz4"
    log_checkpoints                     = "on"
    log_connections                     = "on"
    log_disconnections                  = "on"
    log_min_error_statement             = "error"
    log_lock_waits                      = "on"
    log_min_duration_statement          = "-1"
    log_temp_files                      = "0"
    "cloudsql.enable_pgaudit"           = "on"
    "pgaudit.log"                       = "ddl,role"
    idle_in_transaction_session_timeout = "60000"
  }
}

resource "google_sql_database_instance" "instance" {
  #checkov:skip=CKV_GCP_51:set in local.flags, which the check does not follow
  #checkov:skip=CKV_GCP_52:set in local.flags, which the check does not follow
  #checkov:skip=CKV_GCP_53:set in local.flags, which the check does not follow
  #checkov:skip=CKV_GCP_54:set in local.flags, which the check does not follow
  #checkov:skip=CKV_GCP_109:set in local.flags, which the check does not follow
  #checkov:skip=CKV_GCP_110:set in local.flags, which the check does not follow
  #checkov:skip=CKV_GCP_79:17 is the newest that Enterprise Plus replicas have been run with for long
  #checkov:skip=CKV_GCP_108:only private addresses connect, and a look-up of each name would slow every connection
  #checkov:skip=CKV_GCP_111:pgAudit has what changes tables and rights; statements would bring patients into the log
  #checkov:skip=CKV2_GCP_13:query insights have the durations, without a line for each
  for_each            = var.regions
  project             = var.project
  name                = "${var.name}-${each.key}"
  region              = each.value
  database_version    = "POSTGRES_17"
  deletion_protection = var.deletion_protection
  encryption_key_name = var.keys["${each.key}-database"]
  instance_type       = each.key == var.primary_region ? "CLOUD_SQL_INSTANCE" : "READ_REPLICA_INSTANCE"
  # By name: an instance does not refer to itself.
  master_instance_name = each.key == var.primary_region ? null : "${var.name}-${var.primary_region}"
  settings {
    edition                     = "ENTERPRISE_PLUS"
    tier                        = var.tier
    availability_type           = "REGIONAL"
    disk_type                   = "PD_SSD"
    disk_size                   = var.disk_gb
    disk_autoresize             = true
    deletion_protection_enabled = var.deletion_protection
    retain_backups_on_delete    = true
    ip_configuration {
      ipv4_enabled                                  = false
      private_network                               = var.network
      enable_private_path_for_google_cloud_services = true
      ssl_mode                                      = "TRUSTED_CLIENT_CERTIFICATE_REQUIRED"
    }
    dynamic "backup_configuration" {
      for_each = each.key == var.primary_region ? [true] : []
      content {
        enabled                        = true
        point_in_time_recovery_enabled = true
        transaction_log_retention_days = var.wal_days
        start_time                     = "02:00"
        location                       = var.regions[local.other]
        backup_retention_settings {
          # More than the days of the log, or the log is of no use.
          retained_backups = max(30, var.wal_days + 1)
          retention_unit   = "COUNT"
        }
      }
    }
    maintenance_window {
      day          = 7
      hour         = 3
      update_track = "stable"
    }
    insights_config {
      query_insights_enabled  = true
      query_string_length     = 1024
      record_application_tags = true
      record_client_address   = false
    }
    dynamic "database_flags" {
      for_each = local.flags
      content {
        name  = database_flags.key
        value = database_flags.value
      }
    }
  }
  lifecycle {
    # Grown by itself; and what a switch-over moves is moved by gcloud, never by making an instance anew.
    ignore_changes = [settings[0].disk_size, replica_names, replication_cluster, instance_type, master_instance_name]
  }
}

# Made where the first primary was; the replica has them too, and a switch-over moves neither.
resource "google_sql_database" "carefolio" {
  project  = var.project
  name     = "carefolio"
  instance = google_sql_database_instance.instance["primary"].name
}

resource "google_sql_user" "function" {
  for_each = var.accounts
  project  = var.project
  instance = google_sql_database_instance.instance["primary"].name
  name     = trimsuffix(each.value, ".gserviceaccount.com")
  type     = "CLOUD_IAM_SERVICE_ACCOUNT"
  # Migrations own the tables, and give the functions' users what they need (carefolio.cloud.migrations.allow).
  database_roles = each.key == "migrate" ? ["cloudsqlsuperuser"] : null
}

# Exports are written by the instance itself, whichever of the two is written to.
resource "google_storage_bucket_iam_member" "export" {
  for_each = google_sql_database_instance.instance
  bucket   = var.offsite
  role     = "roles/storage.objectAdmin"
  member   = "serviceAccount:${each.value.service_account_email_address}"
}

output "writing" {
  description = "The instance that is written to."
  value       = "${var.name}-${var.primary_region}"
}

output "connection" {
  description = "By what the functions find the database: the instance that is written to."
  # By names alone: what waits for both instances would wait for one in a lost region.
  value = "${var.project}:${var.regions[var.primary_region]}:${var.name}-${var.primary_region}"
}

output "names" {
  description = "The instances, by role."
  value       = { for role, instance in google_sql_database_instance.instance : role => instance.name }
}
