# Topics, push subscriptions with retries and dead letters, and the clock: made of shared/carefolio/cloud/wiring.json, which
# the functions and the run on one machine read too.

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

variable "regions" {
  description = "By role (primary, second) the region: topics keep messages in both, and each has its clock."
  type        = map(string)
}

variable "primary_region" {
  description = "The role of the region that is pushed to; the other's clock stands still."
  type        = string
}

variable "key" {
  description = "The key of messages."
  type        = string
}

variable "services" {
  description = "By role and function the address that pushes and jobs go to (run.app: the only one inside a perimeter)."
  type        = map(map(string))
}

variable "caller" {
  description = "E-mail address of the account in whose name they are called."
  type        = string
}

variable "audience" {
  description = "What the functions expect in the token (PUSH_AUDIENCE)."
  type        = string
}

data "google_project" "here" {
  project_id = var.project
}

locals {
  wiring        = jsondecode(file("${path.module}/../../../shared/carefolio/cloud/wiring.json"))
  subscriptions = { for each in local.wiring.subscriptions : each.topic => each }
  dead          = { for name, each in local.subscriptions : name => each if each.dead_letter != null }
  jobs = merge([for role in keys(var.regions) : {
    for each in local.wiring.jobs : "${role}-${replace(trim(each.path, "/"), "/", "-")}" => merge(each, { role = role, function = split("/", each.path)[1] })
  }]...)
  agent = "serviceAccount:service-${data.google_project.here.number}@gcp-sa-pubsub.iam.gserviceaccount.com"
}

# By the names that the code knows: a project holds one environment.
resource "google_pubsub_topic" "topic" {
  for_each     = local.subscriptions
  project      = var.project
  name         = each.key
  kms_key_name = var.key
  message_storage_policy {
    allowed_persistence_regions = values(var.regions)
  }
}

resource "google_pubsub_subscription" "push" {
  for_each                     = local.subscriptions
  project                      = var.project
  name                         = each.key
  topic                        = google_pubsub_topic.topic[each.key].id
  ack_deadline_seconds         = 600
  message_retention_duration   = "604800s"
  enable_message_ordering      = each.value.ordered
  enable_exactly_once_delivery = false
  expiration_policy {
    ttl = ""
  }
  retry_policy {
    minimum_backoff = "1s"
    maximum_backoff = "600s"
  }
  dynamic "dead_letter_policy" {
    for_each = each.value.dead_letter == null ? [] : [each.value.dead_letter]
    content {
      dead_letter_topic     = google_pubsub_topic.topic[dead_letter_policy.value].id
      max_delivery_attempts = each.value.attempts
    }
  }
  push_config {
    push_endpoint = "${var.services[var.primary_region][each.value.function]}${each.value.path}"
    oidc_token {
      service_account_email = var.caller
      audience              = var.audience
    }
  }
}

# Dead letters are written by Pub/Sub's own agent: without these two rights nothing ever becomes one.
resource "google_pubsub_topic_iam_member" "dead" {
  for_each = local.dead
  project  = var.project
  topic    = google_pubsub_topic.topic[each.value.dead_letter].name
  role     = "roles/pubsub.publisher"
  member   = local.agent
}

resource "google_pubsub_subscription_iam_member" "dead" {
  for_each     = local.dead
  project      = var.project
  subscription = google_pubsub_subscription.push[each.key].name
  role         = "roles/pubsub.subscriber"
  member       = local.agent
}

resource "google_cloud_scheduler_job" "job" {
  for_each         = local.jobs
  project          = var.project
  region           = var.regions[each.value.role]
  name             = "clock-${each.key}"
  description      = "POST ${each.value.path}"
  schedule         = each.value.minutes >= 60 ? "7 */${floor(each.value.minutes / 60)} * * *" : "*/${each.value.minutes} * * * *"
  time_zone        = "Europe/London"
  paused           = each.value.role != var.primary_region
  attempt_deadline = "1800s"
  retry_config {
    retry_count          = 3
    min_backoff_duration = "5s"
  }
  http_target {
    uri         = "${var.services[each.value.role][each.value.function]}${each.value.path}"
    http_method = "POST"
    oidc_token {
      service_account_email = var.caller
      audience              = var.audience
    }
  }
}

output "topics" {
  description = "The topics, by name."
  value       = { for name, topic in google_pubsub_topic.topic : name => topic.id }
}

output "subscriptions" {
  description = "The subscriptions, by topic."
  value       = { for name, each in google_pubsub_subscription.push : name => each.name }
}
