# Who did what to the platform, kept where nobody can shorten it; and what is not kept at all: addresses of requests, in which
# searches have names and NHS numbers (the functions' own lines name the route alone).

variable "region" {
  description = "Where the logs are kept."
  type        = string
}

variable "audit_days" {
  description = "How long the audit logs are kept."
  type        = number
  validation {
    condition     = var.audit_days >= 400
    error_message = "The audit logs are kept for 400 days or more."
  }
}

variable "protected" {
  description = "Whether the audit logs' bucket is locked, which nobody can undo; off where re-provisioning is rehearsed."
  type        = bool
}

locals {
  audited = toset(["cloudkms.googleapis.com", "cloudsql.googleapis.com", "secretmanager.googleapis.com", "storage.googleapis.com"])
}

resource "google_project_iam_audit_config" "data" {
  for_each = local.audited
  project  = var.project
  service  = each.value
  dynamic "audit_log_config" {
    for_each = toset(["ADMIN_READ", "DATA_READ", "DATA_WRITE"])
    content {
      log_type = audit_log_config.value
    }
  }
}

resource "google_logging_project_bucket_config" "audit" {
  project        = var.project
  location       = var.region
  bucket_id      = "audit"
  retention_days = var.audit_days
  locked         = var.protected
}

resource "google_logging_project_sink" "audit" {
  project                = var.project
  name                   = "audit"
  destination            = "logging.googleapis.com/${google_logging_project_bucket_config.audit.id}"
  filter                 = "log_id(\"cloudaudit.googleapis.com/activity\") OR log_id(\"cloudaudit.googleapis.com/data_access\") OR log_id(\"cloudaudit.googleapis.com/system_event\") OR log_id(\"cloudaudit.googleapis.com/policy\")"
  unique_writer_identity = true
}

resource "google_logging_project_exclusion" "addresses" {
  project     = var.project
  name        = "addresses-of-requests"
  description = "Searches in them have names and NHS numbers."
  filter      = "log_id(\"run.googleapis.com/requests\")"
}

# Senders that still speak an old TLS: who has to be helped before oldest_hl7_tls can be 1.2.
resource "google_logging_metric" "old_tls" {
  project          = var.project
  name             = "hl7-old-tls"
  description      = "Requests at the hospitals' door by TLS 1.0 or 1.1, by sender's address"
  filter           = "resource.type=\"http_load_balancer\" AND jsonPayload.tls.protocol=~\"^TLS ?v?1([.][01])?$\""
  label_extractors = { protocol = "EXTRACT(jsonPayload.tls.protocol)", address = "EXTRACT(httpRequest.remoteIp)" }
  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "INT64"
    labels {
      key         = "protocol"
      description = "What it speaks"
    }
    labels {
      key         = "address"
      description = "Where it comes from"
    }
  }
}
