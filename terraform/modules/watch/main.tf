# Whether the promise of 99.9% is kept, and who is woken when it is not: a check of every door from outside, an objective for
# each with alerts on how fast its budget burns, and alerts on what loses data.

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

variable "hosts" {
  description = "The names of the web, of the APIs and of the door for hospitals."
  type        = object({ web = string, api = string, hl7 = string })
}

variable "backends" {
  description = "By function the backend of the load balancer."
  type        = map(string)
}

variable "subscriptions" {
  description = "By topic the subscription."
  type        = map(string)
}

variable "mail" {
  description = "Who is woken."
  type        = string
}

locals {
  paths = jsondecode(file("${path.module}/../../../functions/url_map.json"))
  hosts = { hl7 = var.hosts.hl7, fhir = var.hosts.api, api = var.hosts.api, login = var.hosts.web, portal = var.hosts.web }
  goal  = 0.999
  # Google's SRE workbook, "Alerting on SLOs", table 5-8: budget of 30 days; a short window ends the alert soon.
  burns = {
    fast = { rate = 14.4, long = "3600s", short = "300s", severity = "CRITICAL" }
    slow = { rate = 6, long = "21600s", short = "1800s", severity = "CRITICAL" }
    days = { rate = 3, long = "86400s", short = "7200s", severity = "WARNING" }
  }
  alerts = merge(flatten([for door in keys(var.backends) : [
    for what in ["availability", "latency"] : { for burn, each in local.burns : "${door} ${what} ${burn}" => merge(each, { door = door, what = what }) }
  ]])...)
  # What is asked of each measure: more than this, for so long.
  limits = {
    "The replica in the second region lags: a lost region would lose more than the promise" = {
      filter = "metric.type=\"cloudsql.googleapis.com/database/replication/replica_lag\" resource.type=\"cloudsql_database\"", above = 300, for = "300s", reducer = "ALIGN_MAX"
    }
    "The database's disk is nearly full" = {
      filter = "metric.type=\"cloudsql.googleapis.com/database/disk/utilization\" resource.type=\"cloudsql_database\"", above = 0.85, for = "600s", reducer = "ALIGN_MAX"
    }
    "The database works at its limit" = {
      filter = "metric.type=\"cloudsql.googleapis.com/database/cpu/utilization\" resource.type=\"cloudsql_database\"", above = 0.85, for = "900s", reducer = "ALIGN_MEAN"
    }
    "Messages of hospitals wait" = {
      filter = "metric.type=\"pubsub.googleapis.com/subscription/oldest_unacked_message_age\" resource.type=\"pubsub_subscription\" resource.label.subscription_id=\"${var.subscriptions["message-stored"]}\"", above = 600, for = "60s", reducer = "ALIGN_MAX"
    }
    "A message has been given up" = {
      filter = "metric.type=\"pubsub.googleapis.com/subscription/dead_letter_message_count\" resource.type=\"pubsub_subscription\"", above = 0, for = "0s", reducer = "ALIGN_SUM"
    }
    "A secret is to be turned: docs/runbooks/leaked-secret.md has how" = {
      filter = "metric.type=\"pubsub.googleapis.com/topic/send_message_operation_count\" resource.type=\"pubsub_topic\" resource.label.topic_id=\"secret-to-turn\"", above = 0, for = "0s", every = "3600s", reducer = "ALIGN_SUM"
    }
    "The database's log cannot be kept: a moment could not be restored" = {
      filter = "metric.type=\"cloudsql.googleapis.com/database/replication/log_archive_failure_count\" resource.type=\"cloudsql_database\"", above = 0, for = "300s", reducer = "ALIGN_DELTA"
    }
    "A hospital speaks a TLS below 1.2" = {
      filter = "metric.type=\"logging.googleapis.com/user/${google_logging_metric.old_tls.name}\" resource.type=\"l7_lb_rule\"", above = 0, for = "0s", every = "3600s", reducer = "ALIGN_SUM"
    }
  }
}

resource "google_monitoring_notification_channel" "mail" {
  project      = var.project
  display_name = "Who is on call"
  type         = "email"
  labels       = { email_address = var.mail }
}

resource "google_monitoring_uptime_check_config" "door" {
  for_each     = local.hosts
  project      = var.project
  display_name = "${each.key} is ready"
  timeout      = "10s"
  period       = "60s"
  http_check {
    path         = "${local.paths[each.key][0]}/health/ready"
    port         = 443
    use_ssl      = true
    validate_ssl = true
  }
  monitored_resource {
    type   = "uptime_url"
    labels = { project_id = var.project, host = each.value }
  }
}

resource "google_monitoring_alert_policy" "away" {
  project               = var.project
  display_name          = "A door does not answer from outside"
  combiner              = "OR"
  severity              = "CRITICAL"
  notification_channels = [google_monitoring_notification_channel.mail.id]
  conditions {
    display_name = "Half of the places fail"
    condition_threshold {
      filter          = "metric.type=\"monitoring.googleapis.com/uptime_check/check_passed\" resource.type=\"uptime_url\""
      comparison      = "COMPARISON_LT"
      threshold_value = 0.5
      duration        = "120s"
      aggregations {
        alignment_period     = "120s"
        per_series_aligner   = "ALIGN_FRACTION_TRUE"
        cross_series_reducer = "REDUCE_MEAN"
        group_by_fields      = ["resource.label.host", "metric.label.check_id"]
      }
    }
  }
  documentation {
    content = "docs/runbooks/README.md: what to look at first when a door does not answer."
  }
}

resource "google_monitoring_custom_service" "door" {
  for_each     = var.backends
  project      = var.project
  service_id   = "door-${each.key}"
  display_name = "Door ${each.key}"
}

resource "google_monitoring_slo" "availability" {
  for_each            = var.backends
  project             = var.project
  service             = google_monitoring_custom_service.door[each.key].service_id
  slo_id              = "availability-${each.key}"
  display_name        = "99.9% of requests are answered"
  goal                = local.goal
  rolling_period_days = 30
  request_based_sli {
    good_total_ratio {
      total_service_filter = "metric.type=\"loadbalancing.googleapis.com/https/request_count\" resource.type=\"https_lb_rule\" resource.label.backend_target_name=\"${each.value}\""
      bad_service_filter   = "metric.type=\"loadbalancing.googleapis.com/https/request_count\" resource.type=\"https_lb_rule\" resource.label.backend_target_name=\"${each.value}\" metric.label.response_code_class=500"
    }
  }
}

resource "google_monitoring_slo" "latency" {
  for_each            = var.backends
  project             = var.project
  service             = google_monitoring_custom_service.door[each.key].service_id
  slo_id              = "latency-${each.key}"
  display_name        = "99.9% of requests are answered within two seconds"
  goal                = local.goal
  rolling_period_days = 30
  request_based_sli {
    distribution_cut {
      distribution_filter = "metric.type=\"loadbalancing.googleapis.com/https/total_latencies\" resource.type=\"https_lb_rule\" resource.label.backend_target_name=\"${each.value}\""
      range {
        max = 2000
      }
    }
  }
}

resource "google_monitoring_alert_policy" "burn" {
  for_each              = local.alerts
  project               = var.project
  display_name          = "Door ${each.value.door}: the budget of 30 days for ${each.value.what} burns ${each.value.rate} times too fast"
  combiner              = "AND"
  severity              = each.value.severity
  notification_channels = [google_monitoring_notification_channel.mail.id]
  dynamic "conditions" {
    for_each = { long = each.value.long, short = each.value.short }
    content {
      display_name = "over ${conditions.value}"
      condition_threshold {
        filter          = "select_slo_burn_rate(\"${each.value.what == "availability" ? google_monitoring_slo.availability[each.value.door].name : google_monitoring_slo.latency[each.value.door].name}\", \"${conditions.value}\")"
        comparison      = "COMPARISON_GT"
        threshold_value = each.value.rate
        duration        = "0s"
      }
    }
  }
  documentation {
    content = "docs/runbooks/bad-release.md: a release of the last hour is taken back first."
  }
}

resource "google_monitoring_alert_policy" "limit" {
  for_each              = local.limits
  project               = var.project
  display_name          = each.key
  combiner              = "OR"
  severity              = "ERROR"
  notification_channels = [google_monitoring_notification_channel.mail.id]
  conditions {
    display_name = "above ${each.value.above}"
    condition_threshold {
      filter          = each.value.filter
      comparison      = "COMPARISON_GT"
      threshold_value = each.value.above
      duration        = each.value.for
      aggregations {
        alignment_period   = lookup(each.value, "every", "60s")
        per_series_aligner = each.value.reducer
      }
    }
  }
}
