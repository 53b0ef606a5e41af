# What the functions say in their log (carefolio.cloud.telemetry) that a person has to hear of.

locals {
  # By event what it means; the line itself names the place and never a patient.
  events = {
    recovery_alert = { severity = "CRITICAL", says = "A promise of recovery would not be kept today", runbook = "recovery" }
    copy_failed    = { severity = "ERROR", says = "Copies of messages cannot be written into the other region", runbook = "recovery" }
    job_failed     = { severity = "ERROR", says = "An export or another job cannot be done", runbook = "README" }
    extract_alert  = { severity = "WARNING", says = "An extract of EMIS is late, or not whole", runbook = "emis-keys" }
    extract_failed = { severity = "ERROR", says = "An extract of EMIS cannot be loaded", runbook = "emis-keys" }
    message_failed = { severity = "ERROR", says = "A message of a hospital could not be applied", runbook = "README" }
    dead_letter    = { severity = "ERROR", says = "A message has been given up", runbook = "README" }
    outbox_failed  = { severity = "ERROR", says = "What is committed cannot be published", runbook = "README" }
    security_alert = { severity = "ERROR", says = "Somebody tries what nobody should", runbook = "leaked-secret" }
  }
}

resource "google_monitoring_alert_policy" "event" {
  for_each              = local.events
  project               = var.project
  display_name          = each.value.says
  combiner              = "OR"
  severity              = each.value.severity
  notification_channels = [google_monitoring_notification_channel.mail.id]
  conditions {
    display_name = each.key
    condition_matched_log {
      filter = "resource.type=\"cloud_run_revision\" jsonPayload.event=\"${each.key}\""
      label_extractors = {
        function = "EXTRACT(resource.labels.service_name)"
      }
    }
  }
  alert_strategy {
    notification_rate_limit {
      period = "3600s"
    }
    auto_close = "86400s"
  }
  documentation {
    content = "docs/runbooks/${each.value.runbook}.md"
  }
}

# Nobody would hear of a recovery that cannot be, where nobody looks.
resource "google_logging_metric" "looked" {
  project     = var.project
  name        = "recovery-looked"
  description = "Looks at whether the promises of recovery would be kept (operations, every five minutes)"
  filter      = "resource.type=\"cloud_run_revision\" jsonPayload.event=\"recovery_looked\""
  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "INT64"
  }
}

resource "google_monitoring_alert_policy" "unlooked" {
  project               = var.project
  display_name          = "Nobody looks any more whether the promises of recovery would be kept"
  combiner              = "OR"
  severity              = "ERROR"
  notification_channels = [google_monitoring_notification_channel.mail.id]
  conditions {
    display_name = "not within half an hour"
    condition_absent {
      filter   = "metric.type=\"logging.googleapis.com/user/${google_logging_metric.looked.name}\" resource.type=\"cloud_run_revision\""
      duration = "1800s"
      aggregations {
        alignment_period     = "300s"
        per_series_aligner   = "ALIGN_SUM"
        cross_series_reducer = "REDUCE_SUM"
      }
    }
  }
  documentation {
    content = "docs/runbooks/recovery.md"
  }
}

# Google renews them by itself, for as long as the name in DNS leads here.
resource "google_monitoring_alert_policy" "certificate" {
  project               = var.project
  display_name          = "A certificate ends within a fortnight"
  combiner              = "OR"
  severity              = "ERROR"
  notification_channels = [google_monitoring_notification_channel.mail.id]
  conditions {
    display_name = "days left"
    condition_threshold {
      filter          = "metric.type=\"monitoring.googleapis.com/uptime_check/time_until_ssl_cert_expires\" resource.type=\"uptime_url\""
      comparison      = "COMPARISON_LT"
      threshold_value = 14
      duration        = "600s"
      aggregations {
        alignment_period     = "1200s"
        per_series_aligner   = "ALIGN_NEXT_OLDER"
        cross_series_reducer = "REDUCE_MIN"
        group_by_fields      = ["resource.label.host"]
      }
    }
  }
  documentation {
    content = "docs/runbooks/certificate.md"
  }
}
