# Where requests come in: three hosts, each with an address, a certificate and a TLS policy of its own (the policy hangs on the
# proxy), the URL map that one machine has too (functions/url_map.json), and Cloud Armor before all of it.

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

variable "primary_region" {
  description = "The role of the region that requests go to: the one with the database that is written to."
  type        = string
}

variable "hosts" {
  description = "The names of the web (portal and sign-in), of the APIs, and of the door for hospitals."
  type        = object({ web = string, api = string, hl7 = string })
}

variable "services" {
  description = "By function the name of its service, the same in both regions."
  type        = map(string)
}

variable "oldest_hl7_tls" {
  description = "The oldest TLS that hospitals may speak: TLS_1_0 as the client's document asks, TLS_1_2 when none is left below."
  type        = string
  validation {
    condition     = contains(["TLS_1_0", "TLS_1_1", "TLS_1_2"], var.oldest_hl7_tls)
    error_message = "TLS_1_0, TLS_1_1 or TLS_1_2."
  }
}

variable "rules_preview" {
  description = "Whether the OWASP rules only count what they would refuse: until an environment has been watched with them."
  type        = bool
}

locals {
  paths    = jsondecode(file("${path.module}/../../../functions/url_map.json"))
  of_apps  = { for name, paths in local.paths : name => paths if name != "hl7" }
  machines = { hl7 = local.paths.hl7 }
  doors = {
    web = { functions = local.of_apps, first = "portal", tls = "TLS_1_2", profile = "MODERN", quic = "NONE" }
    api = { functions = local.of_apps, first = "fhir", tls = "TLS_1_2", profile = "MODERN", quic = "NONE" }
    hl7 = {
      functions = local.machines, first = "hl7", tls = var.oldest_hl7_tls, quic = "DISABLE"
      profile   = var.oldest_hl7_tls == "TLS_1_2" ? "MODERN" : "COMPATIBLE"
    }
  }
}

resource "google_compute_region_network_endpoint_group" "function" {
  for_each              = merge([for role in keys(var.regions) : { for name in keys(local.paths) : "${role}-${name}" => { role = role, name = name } }]...)
  project               = var.project
  name                  = "${var.name}-${replace(each.key, "_", "-")}"
  region                = var.regions[each.value.role]
  network_endpoint_type = "SERVERLESS"
  cloud_run {
    service = var.services[each.value.name]
  }
}

resource "google_compute_backend_service" "function" {
  for_each              = local.paths
  project               = var.project
  name                  = "${var.name}-${each.key}"
  load_balancing_scheme = "EXTERNAL_MANAGED"
  protocol              = "HTTPS"
  security_policy       = each.key == "hl7" ? google_compute_security_policy.hl7.id : google_compute_security_policy.web.id
  backend {
    group = google_compute_region_network_endpoint_group.function["${var.primary_region}-${each.key}"].id
  }
  # The hospitals' door alone: who still speaks an old TLS. Addresses at the others have names and NHS numbers in them.
  log_config {
    enable          = each.key == "hl7"
    sample_rate     = each.key == "hl7" ? 1 : null
    optional_mode   = each.key == "hl7" ? "CUSTOM" : null
    optional_fields = each.key == "hl7" ? ["tls.protocol", "tls.cipher"] : null
  }
}

resource "google_compute_url_map" "door" {
  for_each        = local.doors
  project         = var.project
  name            = "${var.name}-${each.key}"
  default_service = google_compute_backend_service.function[each.value.first].id
  host_rule {
    hosts        = [var.hosts[each.key]]
    path_matcher = each.key
  }
  path_matcher {
    name            = each.key
    default_service = google_compute_backend_service.function[each.value.first].id
    dynamic "path_rule" {
      for_each = each.value.functions
      content {
        service = google_compute_backend_service.function[path_rule.key].id
        paths   = flatten([for path in path_rule.value : path == "/" ? ["/"] : [path, "${path}/*"]])
      }
    }
  }
}

resource "google_compute_ssl_policy" "door" {
  #checkov:skip=CKV_GCP_4:the hospitals' own old TLS is the client's wish; web and APIs have MODERN of 1.2
  for_each        = local.doors
  project         = var.project
  name            = "${var.name}-${each.key}"
  min_tls_version = each.value.tls
  profile         = each.value.profile
}

resource "google_compute_managed_ssl_certificate" "door" {
  for_each = local.doors
  project  = var.project
  name     = "${var.name}-${each.key}"
  managed {
    domains = [var.hosts[each.key]]
  }
}

resource "google_compute_global_address" "door" {
  for_each = local.doors
  project  = var.project
  name     = "${var.name}-${each.key}"
}

resource "google_compute_target_https_proxy" "door" {
  for_each         = local.doors
  project          = var.project
  name             = "${var.name}-${each.key}"
  url_map          = google_compute_url_map.door[each.key].id
  ssl_policy       = google_compute_ssl_policy.door[each.key].id
  ssl_certificates = [google_compute_managed_ssl_certificate.door[each.key].id]
  quic_override    = each.value.quic
}

resource "google_compute_global_forwarding_rule" "door" {
  for_each              = local.doors
  project               = var.project
  name                  = "${var.name}-${each.key}"
  load_balancing_scheme = "EXTERNAL_MANAGED"
  ip_address            = google_compute_global_address.door[each.key].id
  target                = google_compute_target_https_proxy.door[each.key].id
  port_range            = "443"
}

# A person may type the name alone. An API that answered on port 80 would get passwords and tokens in the clear.
resource "google_compute_url_map" "to_https" {
  project = var.project
  name    = "${var.name}-to-https"
  default_url_redirect {
    https_redirect         = true
    redirect_response_code = "PERMANENT_REDIRECT"
    strip_query            = false
  }
}

resource "google_compute_target_http_proxy" "to_https" {
  project = var.project
  name    = "${var.name}-to-https"
  url_map = google_compute_url_map.to_https.id
}

resource "google_compute_global_forwarding_rule" "to_https" {
  project               = var.project
  name                  = "${var.name}-to-https"
  load_balancing_scheme = "EXTERNAL_MANAGED"
  ip_address            = google_compute_global_address.door["web"].id
  target                = google_compute_target_http_proxy.to_https.id
  port_range            = "80"
}

output "addresses" {
  description = "By host the address that its name in DNS has to lead to."
  value       = { for name, address in google_compute_global_address.door : name => address.address }
}

output "hl7_policy" {
  description = "The policy whose allow rules operations keeps."
  value       = google_compute_security_policy.hl7.name
}

output "backends" {
  description = "By function the name of what the load balancer counts its requests by."
  value       = { for name, backend in google_compute_backend_service.function : name => backend.name }
}
