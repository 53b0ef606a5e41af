# From a commit to the environments: the registry, the build of each commit and of each week (on the newest base), and the
# deployments, each of which has the next one begin; production's waits for a person.

terraform {
  required_version = ">= 1.9"
  required_providers {
    google = { source = "hashicorp/google", version = "~> 7.45" }
  }
}

variable "project" {
  description = "The project of the delivery; no environment is in it."
  type        = string
}

variable "region" {
  description = "Where images are kept and builds run."
  type        = string
}

variable "repository" {
  description = "The repository as Cloud Build is connected to it: projects/P/locations/R/connections/C/repositories/N."
  type        = string
}

variable "environments" {
  description = "By environment its project, its region and the one that stands by, which one comes after it ('' for none), and whether a person has to approve."
  type        = map(object({ project = string, region = string, standby = string, next = string, approved = bool }))
  validation {
    condition     = alltrue([for each in values(var.environments) : each.next == "" || contains(keys(var.environments), each.next)])
    error_message = "An environment is followed by one of them."
  }
}

data "google_project" "environment" {
  for_each   = var.environments
  project_id = each.value.project
}

locals {
  deploy = yamldecode(file("${path.module}/../../../scripts/deploy.yaml"))
  # Which come after another.
  later = compact([for each in values(var.environments) : each.next])
  # What a deployment does there: change services and jobs in the name of their accounts, and look at their measures.
  roles  = ["roles/run.developer", "roles/iam.serviceAccountUser", "roles/monitoring.viewer"]
  rights = merge([for name, each in var.environments : { for role in local.roles : "${name} ${role}" => { name = name, role = role } }]...)
}

resource "google_project_service" "needed" {
  # Those of the delivery itself; and those that its accounts ask for in other projects, which are looked up in their own.
  for_each = toset([
    "accesscontextmanager", "artifactregistry", "billingbudgets", "binaryauthorization", "certificatemanager", "cloudbilling", "cloudbuild", "cloudkms", "cloudresourcemanager", "cloudscheduler",
    "compute", "containeranalysis", "containerscanning", "dns", "iam", "logging", "monitoring", "ondemandscanning", "pubsub", "run", "secretmanager", "servicenetworking", "serviceusage", "sqladmin", "storage",
  ])
  project            = var.project
  service            = "${each.value}.googleapis.com"
  disable_on_destroy = false
}

resource "google_artifact_registry_repository" "images" {
  #checkov:skip=CKV_GCP_84:our own code, and no patient: Google's keys do
  project       = var.project
  location      = var.region
  repository_id = "carefolio"
  format        = "DOCKER"
  docker_config {
    # A tag is one build of a commit, for ever.
    immutable_tags = true
  }
  cleanup_policies {
    id     = "the newest"
    action = "KEEP"
    most_recent_versions {
      keep_count = 50
    }
  }
  cleanup_policies {
    id     = "old ones"
    action = "DELETE"
    condition {
      older_than = "15552000s"
    }
  }
}

# What is not ours (the virus scanner), fetched once from where it is published and kept.
resource "google_artifact_registry_repository" "others" {
  #checkov:skip=CKV_GCP_84:published images, and no patient: Google's keys do
  project       = var.project
  location      = var.region
  repository_id = "others"
  format        = "DOCKER"
  mode          = "REMOTE_REPOSITORY"
  remote_repository_config {
    description = "Published images"
    docker_repository {
      public_repository = "DOCKER_HUB"
    }
  }
}

# Cloud Run pulls in the name of its agent in the environment's project.
resource "google_artifact_registry_repository_iam_member" "pulled" {
  for_each = merge([for name in keys(var.environments) : {
    for kept in ["images", "others"] : "${name} ${kept}" => { name = name, kept = kept }
  }]...)
  project    = var.project
  location   = var.region
  repository = each.value.kept == "images" ? google_artifact_registry_repository.images.name : google_artifact_registry_repository.others.name
  role       = "roles/artifactregistry.reader"
  member     = "serviceAccount:service-${data.google_project.environment[each.value.name].number}@serverless-robot-prod.iam.gserviceaccount.com"
}

# Each environment asks the attestor that Cloud Build signs with (built-by-cloud-build, which Google makes with the first
# build) whether an image is one of its own.
resource "google_project_iam_member" "asked" {
  for_each = var.environments
  project  = var.project
  role     = "roles/binaryauthorization.attestorsVerifier"
  member   = "serviceAccount:service-${data.google_project.environment[each.key].number}@gcp-sa-binaryauthorization.iam.gserviceaccount.com"
}

resource "google_service_account" "builder" {
  project      = var.project
  account_id   = "builder"
  display_name = "Builds images, deploys nothing"
}

resource "google_project_iam_member" "builder" {
  for_each = toset(["roles/artifactregistry.writer", "roles/containeranalysis.notes.editor", "roles/containeranalysis.occurrences.editor", "roles/logging.logWriter", "roles/ondemandscanning.admin", "roles/storage.admin"])
  project  = var.project
  role     = each.value
  member   = google_service_account.builder.member
}

resource "google_service_account" "deployer" {
  for_each     = var.environments
  project      = var.project
  account_id   = "deployer-${each.key}"
  display_name = "Deploys to ${each.key} alone"
}

resource "google_project_iam_member" "deployer" {
  for_each = local.rights
  project  = var.environments[each.value.name].project
  role     = each.value.role
  member   = google_service_account.deployer[each.value.name].member
}

resource "google_project_iam_member" "deployer_here" {
  for_each = merge([for role in ["roles/artifactregistry.reader", "roles/logging.logWriter", "roles/pubsub.publisher"] : {
    for name in keys(var.environments) : "${name} ${role}" => { name = name, role = role }
  }]...)
  project = var.project
  role    = each.value.role
  member  = google_service_account.deployer[each.value.name].member
}

resource "google_cloudbuild_trigger" "commit" {
  project         = var.project
  location        = var.region
  name            = "commit"
  description     = "Each commit on main becomes an image"
  filename        = "cloudbuild.yaml"
  service_account = google_service_account.builder.id
  repository_event_config {
    repository = var.repository
    push {
      branch = "^main$"
    }
  }
}

# Own images are patched by nobody else: once a week the newest commit is built again on the newest base.
resource "google_cloud_scheduler_job" "weekly" {
  project   = var.project
  region    = var.region
  name      = "build-weekly"
  schedule  = "0 4 * * 1"
  time_zone = "Europe/London"
  http_target {
    uri         = "https://cloudbuild.googleapis.com/v1/${google_cloudbuild_trigger.commit.id}:run"
    http_method = "POST"
    body        = base64encode(jsonencode({ source = { branchName = "main" } }))
    headers     = { "Content-Type" = "application/json" }
    oauth_token {
      service_account_email = google_service_account.clock.email
    }
  }
}

resource "google_service_account" "clock" {
  project      = var.project
  account_id   = "clock"
  display_name = "Starts the weekly build"
}

resource "google_project_iam_member" "clock" {
  #checkov:skip=CKV_GCP_49:it starts builds, and may act as the builder alone, which deploys nothing
  project = var.project
  role    = "roles/cloudbuild.builds.editor"
  member  = google_service_account.clock.member
}

resource "google_service_account_iam_member" "clock" {
  service_account_id = google_service_account.builder.name
  role               = "roles/iam.serviceAccountUser"
  member             = google_service_account.clock.member
}

# The registry tells of what is pushed at a topic of this very name (docs: artifact-registry/docs/configure-notifications);
# a deployment tells the next environment in the same words.
resource "google_pubsub_topic" "pushed" {
  #checkov:skip=CKV_GCP_83:names of images, and no patient
  project = var.project
  name    = "gcr"
}

resource "google_pubsub_topic" "deploy" {
  #checkov:skip=CKV_GCP_83:names of images, and no patient
  for_each = { for name, each in var.environments : name => each if contains(local.later, name) }
  project  = var.project
  name     = "deploy-${each.key}"
}

resource "google_cloudbuild_trigger" "deploy" {
  for_each        = var.environments
  project         = var.project
  location        = var.region
  name            = "deploy-${each.key}"
  description     = "An image to ${each.key}"
  service_account = google_service_account.deployer[each.key].id
  # An image of a commit, and not what is attached to it (its provenance, what it is made of).
  filter = "_TAG.matches(\":[0-9a-f]{40}-[0-9a-f-]{36}$\")"
  pubsub_config {
    topic = contains(local.later, each.key) ? google_pubsub_topic.deploy[each.key].id : google_pubsub_topic.pushed.id
  }
  approval_config {
    approval_required = each.value.approved
  }
  substitutions = {
    _IMAGE   = "$(body.message.data.digest)"
    _TAG     = "$(body.message.data.tag)"
    _PROJECT = each.value.project
    _REGION  = each.value.region
    _STANDBY = each.value.standby
    _NEXT    = each.value.next == "" ? "" : "projects/${var.project}/topics/deploy-${each.value.next}"
  }
  build {
    timeout = local.deploy.timeout
    options {
      logging = local.deploy.options.logging
    }
    dynamic "step" {
      for_each = local.deploy.steps
      content {
        id         = step.value.id
        name       = step.value.name
        wait_for   = try(step.value.waitFor, null)
        entrypoint = try(step.value.entrypoint, null)
        args       = try(step.value.args, null)
        script     = try(step.value.script, null)
        # A script sees what is in its environment alone.
        env = can(step.value.script) ? ["_IMAGE=$_IMAGE", "_PROJECT=$_PROJECT", "_REGION=$_REGION", "_STANDBY=$_STANDBY", "_NEXT=$_NEXT", "_TAG=$_TAG"] : null
      }
    }
  }
}

output "images" {
  description = "Where images are kept."
  value       = "${var.region}-docker.pkg.dev/${var.project}/${google_artifact_registry_repository.images.name}"
}
