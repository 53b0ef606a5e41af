# What brings releases to the environments.

terraform {
  required_version = ">= 1.9"
  required_providers {
    google = { source = "hashicorp/google", version = "~> 7.45" }
  }
}

provider "google" {
  project = "carefolio-delivery"
  # Whose quota, and whose list of services, a call of a person counts against.
  billing_project       = "carefolio-delivery"
  user_project_override = true
}

module "delivery" {
  source     = "../../modules/delivery"
  project    = "carefolio-delivery"
  region     = "europe-west2"
  repository = "projects/carefolio-delivery/locations/europe-west2/connections/code/repositories/carefolio"
  rehearsal = {
    project         = "carefolio-production"
    region          = "europe-west2"
    offsite_project = "carefolio-production-offsite"
    offsite         = "carefolio-production-offsite-exports"
    folder          = "100000000002"
    billing         = "000000-000000-000000"
    policy          = "100000000000"
  }
  environments = {
    test       = { project = "carefolio-test", region = "europe-west2", standby = "europe-west1", next = "staging", approved = false }
    staging    = { project = "carefolio-staging", region = "europe-west2", standby = "europe-west1", next = "production", approved = false }
    production = { project = "carefolio-production", region = "europe-west2", standby = "europe-west1", next = "", approved = true }
  }
}

output "images" {
  description = "Where images are kept."
  value       = module.delivery.images
}
