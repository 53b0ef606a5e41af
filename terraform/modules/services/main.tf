# The functions: one image for all, a service and an account for each, with no more rights than it uses.

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
  description = "Where they run."
  type        = string
}

variable "image" {
  description = "The image, by digest: the pipeline changes it, not a plan."
  type        = string
}

variable "functions" {
  description = "By function: how many instances, requests at once, connections."
  type = map(object({
    min_instances = number
    max_instances = number
    concurrency   = number
    pool_size     = number
    cpu           = optional(string, "1")
    memory        = optional(string, "1Gi")
    timeout       = optional(string, "60s")
    everywhere    = optional(bool, false)
    secrets       = optional(list(string), [])
    scanned       = optional(bool, false)
  }))
}

variable "accounts" {
  description = "By function the e-mail address of its account."
  type        = map(string)
}

variable "subnet" {
  description = "The subnet of their network (Direct VPC egress)."
  type        = string
}

variable "environment" {
  description = "What every function gets as environment variables."
  type        = map(string)
}

variable "secrets" {
  description = "By secret the version that is mounted: by number, so that going back takes the secret back too."
  type        = map(string)
}

variable "command" {
  description = "The secrets of what an operator types."
  type        = list(string)
}

variable "scanner" {
  description = "The image of the virus scanner, beside the functions that take files."
  type        = string
}

variable "caller" {
  description = "Who may call those without a public path: Pub/Sub and the clock."
  type        = string
}

variable "audience" {
  description = "What the tokens of Pub/Sub and the clock are made for; without it Cloud Run itself refuses them."
  type        = string
}

variable "deletion_protection" {
  description = "Off where an environment is rehearsed."
  type        = bool
}

locals {
  # The port of clamd.
  scans  = 3310
  public = jsondecode(file("${path.module}/../../../functions/url_map.json"))
}

resource "google_cloud_run_v2_service" "function" {
  for_each            = var.functions
  project             = var.project
  name                = "${var.name}-${replace(each.key, "_", "-")}"
  location            = var.region
  ingress             = contains(keys(local.public), each.key) ? "INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER" : "INGRESS_TRAFFIC_INTERNAL_ONLY"
  deletion_protection = var.deletion_protection
  binary_authorization {
    use_default = true
  }
  custom_audiences = contains(keys(local.public), each.key) ? null : [var.audience]
  template {
    service_account                  = var.accounts[each.key]
    timeout                          = each.value.timeout
    max_instance_request_concurrency = each.value.concurrency
    execution_environment            = "EXECUTION_ENVIRONMENT_GEN2"
    scaling {
      min_instance_count = each.value.min_instances
      max_instance_count = each.value.max_instances
    }
    vpc_access {
      # Only who needs the fixed address goes out by it: NAT costs half a minute at a cold start.
      egress = each.value.everywhere ? "ALL_TRAFFIC" : "PRIVATE_RANGES_ONLY"
      network_interfaces {
        subnetwork = var.subnet
      }
    }
    containers {
      image = var.image
      # Beside a scanner it has to be said which of the two is asked.
      ports {
        container_port = 8080
      }
      dynamic "env" {
        for_each = merge(var.environment, {
          FUNCTION_SOURCE = "functions/${each.key}/main.py"
          FUNCTION_TARGET = each.key
          POOL_SIZE       = tostring(each.value.pool_size)
          DATABASE_USER   = trimsuffix(var.accounts[each.key], ".gserviceaccount.com")
        }, each.value.scanned ? { CLAMD_ADDRESS = "127.0.0.1:${local.scans}" } : {})
        content {
          name  = env.key
          value = env.value
        }
      }
      resources {
        limits            = { cpu = each.value.cpu, memory = each.value.memory }
        cpu_idle          = each.value.min_instances == 0
        startup_cpu_boost = true
      }
      startup_probe {
        initial_delay_seconds = 0
        period_seconds        = 5
        failure_threshold     = 36
        timeout_seconds       = 5
        http_get {
          path = "/health/ready"
        }
      }
      liveness_probe {
        period_seconds    = 30
        failure_threshold = 3
        timeout_seconds   = 5
        http_get {
          path = "/health/live"
        }
      }
      dynamic "volume_mounts" {
        for_each = length(each.value.secrets) > 0 ? each.value.secrets : []
        content {
          name       = replace(volume_mounts.value, "_", "-")
          mount_path = "/secrets/${volume_mounts.value}"
        }
      }
    }
    # It brings its definitions up to date by itself, and takes a minute to read them: the function waits for nobody.
    dynamic "containers" {
      for_each = each.value.scanned ? [var.scanner] : []
      content {
        name  = "scanner"
        image = containers.value
        resources {
          limits   = { cpu = "1", memory = "4Gi" }
          cpu_idle = each.value.min_instances == 0
        }
        startup_probe {
          initial_delay_seconds = 10
          period_seconds        = 10
          failure_threshold     = 23
          tcp_socket {
            port = local.scans
          }
        }
      }
    }
    dynamic "volumes" {
      for_each = each.value.secrets
      content {
        name = replace(volumes.value, "_", "-")
        secret {
          secret = volumes.value
          items {
            version = var.secrets[volumes.value]
            path    = volumes.value
          }
        }
      }
    }
  }
  lifecycle {
    # The pipeline owns what runs and how traffic is split.
    ignore_changes = [traffic, template[0].containers[0].image, client, client_version]
  }
}

resource "google_cloud_run_v2_service_iam_member" "public" {
  for_each = { for name, each in var.functions : name => each if contains(keys(local.public), name) }
  project  = var.project
  location = var.region
  name     = google_cloud_run_v2_service.function[each.key].name
  role     = "roles/run.invoker"
  member   = "allUsers"
}

resource "google_cloud_run_v2_service_iam_member" "caller" {
  for_each = { for name, each in var.functions : name => each if !contains(keys(local.public), name) }
  project  = var.project
  location = var.region
  name     = google_cloud_run_v2_service.function[each.key].name
  role     = "roles/run.invoker"
  member   = "serviceAccount:${var.caller}"
}
