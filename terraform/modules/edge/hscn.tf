# The way for hospitals that post over HSCN: a consumer network provider's link (Partner Interconnect in two zones: 99.9%), the few
# addresses that he assigned, and at them an internal load balancer with the same TLS policy and the same function behind it.
# What is signed and bought first is in docs/cloud.md. Internet first is the NHS's policy, so an environment may have none.

variable "network" {
  description = "The network of the environment."
  type        = string
}

variable "hscn" {
  description = "The name of the hospitals' door on HSCN, the range that the provider assigned (the third from its end is the door's), a range for the proxies; null for none."
  type        = object({ host = string, range = string, proxies = string })
  validation {
    condition     = try(tonumber(split("/", var.hscn.range)[1]) <= 29, var.hscn == null)
    error_message = "The range is a /29 or larger."
  }
}

locals {
  hscn = var.hscn == null ? {} : { here = var.hscn }
}

resource "google_compute_subnetwork" "hscn" {
  for_each                 = local.hscn
  project                  = var.project
  name                     = "${var.name}-hscn"
  region                   = var.regions["primary"]
  network                  = var.network
  ip_cidr_range            = each.value.range
  private_ip_google_access = true
  log_config {
    aggregation_interval = "INTERVAL_10_MIN"
    flow_sampling        = 0.5
    metadata             = "EXCLUDE_ALL_METADATA"
  }
}

resource "google_compute_subnetwork" "proxies" {
  #checkov:skip=CKV_GCP_26:a subnet of proxies has no flow logs
  #checkov:skip=CKV_GCP_74:nothing of ours runs in it
  for_each      = local.hscn
  project       = var.project
  name          = "${var.name}-hscn-proxies"
  region        = var.regions["primary"]
  network       = var.network
  ip_cidr_range = each.value.proxies
  purpose       = "GLOBAL_MANAGED_PROXY"
  role          = "ACTIVE"
}

resource "google_compute_router" "hscn" {
  for_each = local.hscn
  project  = var.project
  name     = "${var.name}-hscn"
  region   = var.regions["primary"]
  network  = var.network
  bgp {
    # The only number that a partner's link may have.
    asn            = 16550
    advertise_mode = "CUSTOM"
    advertised_ip_ranges {
      range       = each.value.range
      description = "What HSCN may reach, and nothing else of us"
    }
  }
}

resource "google_compute_interconnect_attachment" "hscn" {
  for_each                 = var.hscn == null ? {} : { one = "AVAILABILITY_DOMAIN_1", two = "AVAILABILITY_DOMAIN_2" }
  project                  = var.project
  name                     = "${var.name}-hscn-${each.key}"
  region                   = var.regions["primary"]
  router                   = google_compute_router.hscn["here"].id
  type                     = "PARTNER"
  edge_availability_domain = each.value
  admin_enabled            = true
}

resource "google_compute_address" "hscn" {
  for_each     = local.hscn
  project      = var.project
  name         = "${var.name}-hscn"
  region       = var.regions["primary"]
  subnetwork   = google_compute_subnetwork.hscn[each.key].id
  address_type = "INTERNAL"
  # The last two are the network's own.
  address = cidrhost(each.value.range, -3)
}

resource "google_certificate_manager_dns_authorization" "hscn" {
  for_each = local.hscn
  project  = var.project
  name     = "${var.name}-hscn"
  domain   = each.value.host
}

resource "google_certificate_manager_certificate" "hscn" {
  for_each = local.hscn
  project  = var.project
  name     = "${var.name}-hscn"
  scope    = "ALL_REGIONS"
  managed {
    domains            = [each.value.host]
    dns_authorizations = [google_certificate_manager_dns_authorization.hscn[each.key].id]
  }
}

resource "google_compute_backend_service" "hscn" {
  for_each              = local.hscn
  project               = var.project
  name                  = "${var.name}-hscn"
  load_balancing_scheme = "INTERNAL_MANAGED"
  protocol              = "HTTPS"
  backend {
    group = google_compute_region_network_endpoint_group.function["${var.primary_region}-hl7"].id
  }
}

# Only the hospitals' function is behind it; what it does not know it answers 404 to by itself.
resource "google_compute_url_map" "hscn" {
  for_each        = local.hscn
  project         = var.project
  name            = "${var.name}-hscn"
  default_service = google_compute_backend_service.hscn[each.key].id
}

resource "google_compute_target_https_proxy" "hscn" {
  for_each                         = local.hscn
  project                          = var.project
  name                             = "${var.name}-hscn"
  url_map                          = google_compute_url_map.hscn[each.key].id
  ssl_policy                       = google_compute_ssl_policy.door["hl7"].id
  certificate_manager_certificates = [google_certificate_manager_certificate.hscn[each.key].id]
}

resource "google_compute_global_forwarding_rule" "hscn" {
  for_each              = local.hscn
  project               = var.project
  name                  = "${var.name}-hscn"
  load_balancing_scheme = "INTERNAL_MANAGED"
  network               = var.network
  subnetwork            = google_compute_subnetwork.hscn[each.key].id
  ip_address            = google_compute_address.hscn[each.key].address
  target                = google_compute_target_https_proxy.hscn[each.key].id
  port_range            = "443"
  depends_on            = [google_compute_subnetwork.proxies]
}

output "hscn_pairing_keys" {
  description = "What the provider is told, by hand, to join his ends to ours."
  value       = { for name, attachment in google_compute_interconnect_attachment.hscn : name => attachment.pairing_key }
  sensitive   = true
}

output "hscn_record" {
  description = "The record in DNS by which the certificate for HSCN is had."
  value       = { for name, each in google_certificate_manager_dns_authorization.hscn : each.domain => each.dns_resource_record }
}
