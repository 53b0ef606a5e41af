# A network of its own for each environment: subnets for Direct VPC egress in both regions, private services access for
# the database, NAT with fixed addresses (EMIS allows them by name), and a firewall for what goes through it.

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

variable "ranges" {
  description = "By role the range of the functions' subnet: /24 holds 120 instances while a release rolls out (each takes two addresses)."
  type        = map(string)
  validation {
    condition     = alltrue([for range in values(var.ranges) : tonumber(split("/", range)[1]) <= 26])
    error_message = "Direct VPC egress wants a subnet of /26 or larger."
  }
}

variable "services_range" {
  description = "The range of the database's network, which Google peers with ours."
  type        = string
}

resource "google_compute_network" "network" {
  #checkov:skip=CKV2_GCP_18:its firewall is a policy, below
  project                 = var.project
  name                    = var.name
  auto_create_subnetworks = false
  routing_mode            = "GLOBAL"
}

resource "google_compute_subnetwork" "functions" {
  for_each                 = var.ranges
  project                  = var.project
  name                     = "${var.name}-functions-${each.key}"
  region                   = var.regions[each.key]
  network                  = google_compute_network.network.id
  ip_cidr_range            = each.value
  private_ip_google_access = true
  log_config {
    aggregation_interval = "INTERVAL_10_MIN"
    flow_sampling        = 0.1
    metadata             = "EXCLUDE_ALL_METADATA"
  }
}

resource "google_compute_global_address" "services" {
  project       = var.project
  name          = "${var.name}-services"
  purpose       = "VPC_PEERING"
  address_type  = "INTERNAL"
  address       = split("/", var.services_range)[0]
  prefix_length = tonumber(split("/", var.services_range)[1])
  network       = google_compute_network.network.id
}

resource "google_service_networking_connection" "services" {
  network                 = google_compute_network.network.id
  service                 = "servicenetworking.googleapis.com"
  reserved_peering_ranges = [google_compute_global_address.services.name]
}

resource "google_compute_address" "out" {
  for_each = var.regions
  project  = var.project
  name     = "${var.name}-out-${each.key}"
  region   = each.value
}

resource "google_compute_router" "router" {
  for_each = var.regions
  project  = var.project
  name     = "${var.name}-${each.key}"
  region   = each.value
  network  = google_compute_network.network.id
}

resource "google_compute_router_nat" "nat" {
  for_each                           = var.regions
  project                            = var.project
  name                               = "${var.name}-${each.key}"
  region                             = each.value
  router                             = google_compute_router.router[each.key].name
  nat_ip_allocate_option             = "MANUAL_ONLY"
  nat_ips                            = [google_compute_address.out[each.key].self_link]
  source_subnetwork_ip_ranges_to_nat = "LIST_OF_SUBNETWORKS"
  subnetwork {
    name                    = google_compute_subnetwork.functions[each.key].id
    source_ip_ranges_to_nat = ["ALL_IP_RANGES"]
  }
  log_config {
    enable = true
    filter = "ERRORS_ONLY"
  }
}

resource "google_compute_network_firewall_policy" "policy" {
  project     = var.project
  name        = var.name
  description = "What may be reached through the network; everything else is refused."
}

locals {
  out = {
    database = { priority = 1000, ranges = [var.services_range], protocol = "tcp", ports = ["5432", "3307"] }
    google   = { priority = 1100, ranges = ["199.36.153.4/30", "199.36.153.8/30"], protocol = "tcp", ports = ["443"] }
    # SFTP to EMIS, HTTPS to providers, registers and receivers: checked by the code that calls (identity/outside.py).
    outside = { priority = 1200, ranges = ["0.0.0.0/0"], protocol = "tcp", ports = ["22", "443", "587"] }
  }
}

resource "google_compute_network_firewall_policy_rule" "out" {
  for_each        = local.out
  project         = var.project
  firewall_policy = google_compute_network_firewall_policy.policy.name
  rule_name       = each.key
  priority        = each.value.priority
  direction       = "EGRESS"
  action          = "allow"
  match {
    dest_ip_ranges = each.value.ranges
    layer4_configs {
      ip_protocol = each.value.protocol
      ports       = each.value.ports
    }
  }
}

resource "google_compute_network_firewall_policy_rule" "nothing_else" {
  for_each        = { EGRESS = 65530, INGRESS = 65531 }
  project         = var.project
  firewall_policy = google_compute_network_firewall_policy.policy.name
  rule_name       = "nothing-else-${lower(each.key)}"
  priority        = each.value
  direction       = each.key
  action          = "deny"
  match {
    dest_ip_ranges = each.key == "EGRESS" ? ["0.0.0.0/0"] : null
    src_ip_ranges  = each.key == "INGRESS" ? ["0.0.0.0/0"] : null
    layer4_configs {
      ip_protocol = "all"
    }
  }
}

resource "google_compute_network_firewall_policy_association" "here" {
  project           = var.project
  name              = var.name
  firewall_policy   = google_compute_network_firewall_policy.policy.name
  attachment_target = google_compute_network.network.id
}

output "network" {
  description = "The network, when its peering with Google's services is there."
  value       = google_service_networking_connection.services.network
}

output "subnets" {
  description = "By role the subnet of the functions."
  value       = { for role, subnet in google_compute_subnetwork.functions : role => subnet.id }
}

output "addresses" {
  description = "By role the address that EMIS and others see: they allow both before they are needed."
  value       = { for role, address in google_compute_address.out : role => address.address }
}
