# What Google's own services may be asked for, and by whom: a service perimeter around the environment's projects, so that a
# stolen credential reads no bucket and no secret from outside of it; and their names, inside the network, at the one
# address that keeps to it.

variable "perimeter" {
  description = "The organisation's access policy (its number), the numbers of the projects inside, who comes from outside to deploy and to operate (members), and the number of the project that images come from; null where the project is inside another's."
  type = object({
    policy   = string
    projects = list(string)
    visitors = list(string)
    delivery = string
  })
}

locals {
  # Those that hold data of patients, or keys to it.
  restricted = [for each in ["cloudkms", "cloudscheduler", "compute", "logging", "pubsub", "run", "secretmanager", "sqladmin", "storage"] : "${each}.googleapis.com"]
  # The address that serves what a perimeter knows; and the other for what it does not know: keys that check tokens, spans.
  kept  = ["199.36.153.4", "199.36.153.5", "199.36.153.6", "199.36.153.7"]
  other = ["199.36.153.8", "199.36.153.9", "199.36.153.10", "199.36.153.11"]
  names = {
    "*.googleapis.com."         = local.kept
    "www.googleapis.com."       = local.other
    "telemetry.googleapis.com." = local.other
  }
}

resource "google_access_context_manager_service_perimeter" "here" {
  count          = var.perimeter == null ? 0 : 1
  parent         = "accessPolicies/${var.perimeter.policy}"
  name           = "accessPolicies/${var.perimeter.policy}/servicePerimeters/${replace(var.project, "-", "_")}"
  title          = replace(var.project, "-", "_")
  perimeter_type = "PERIMETER_TYPE_REGULAR"
  status {
    resources           = [for number in var.perimeter.projects : "projects/${number}"]
    restricted_services = local.restricted
    ingress_policies {
      title = "Deployments and operators"
      ingress_from {
        identities = var.perimeter.visitors
        sources {
          access_level = "*"
        }
      }
      ingress_to {
        resources = ["*"]
        dynamic "operations" {
          for_each = toset(local.restricted)
          content {
            service_name = operations.value
            method_selectors {
              method = "*"
            }
          }
        }
      }
    }
    egress_policies {
      title = "Images"
      egress_from {
        identity_type = "ANY_IDENTITY"
      }
      egress_to {
        resources = ["projects/${var.perimeter.delivery}"]
        dynamic "operations" {
          for_each = toset(["artifactregistry.googleapis.com", "binaryauthorization.googleapis.com", "containeranalysis.googleapis.com"])
          content {
            service_name = operations.value
            method_selectors {
              method = "*"
            }
          }
        }
      }
    }
  }
}

resource "google_dns_managed_zone" "google" {
  project     = var.project
  name        = "${var.name}-google"
  dns_name    = "googleapis.com."
  description = "Google's own services, at the address that keeps to the perimeter"
  visibility  = "private"
  private_visibility_config {
    networks {
      network_url = google_compute_network.network.id
    }
  }
}

resource "google_dns_record_set" "google" {
  for_each     = local.names
  project      = var.project
  managed_zone = google_dns_managed_zone.google.name
  name         = each.key
  type         = "A"
  ttl          = 300
  rrdatas      = each.value
}
