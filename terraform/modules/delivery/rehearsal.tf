# Recovery, rehearsed by the clock and on demand: twice a year from nothing, each week the off-site export by itself
# (scripts/rehearsal.yaml). Who rehearses may read everything and owns what it makes; it deploys nothing.

variable "rehearsal" {
  description = "Of which environment: its project and region, its off-site project and bucket; the folder, billing account and access policy for the project that is made."
  type = object({
    project         = string
    region          = string
    offsite_project = string
    offsite         = string
    folder          = string
    billing         = string
    policy          = string
  })
}

locals {
  rehearsals = {
    rehearse = { schedule = "0 5 3 3,9 *", description = "Recovery from nothing, twice a year" }
    restore  = { schedule = "0 5 * * 3", description = "The off-site export by itself, each week" }
  }
  given = {
    _PROJECT         = var.rehearsal.project
    _REGION          = var.rehearsal.region
    _OFFSITE         = "gs://${var.rehearsal.offsite}"
    _OFFSITE_PROJECT = var.rehearsal.offsite_project
    _FOLDER          = var.rehearsal.folder
    _BILLING         = var.rehearsal.billing
    _POLICY          = var.rehearsal.policy
  }
  # In the environment's project: clone, read backups, secrets and copies, run commands on a clone. In the off-site project: an
  # instance of a day.
  rehearsing = merge(
    { for role in ["cloudkms.admin", "cloudsql.admin", "run.developer", "iam.serviceAccountUser", "secretmanager.secretAccessor", "storage.objectViewer"] : "environment ${role}" => { project = var.rehearsal.project, role = role } },
    { for role in ["cloudsql.admin", "storage.admin"] : "offsite ${role}" => { project = var.rehearsal.offsite_project, role = role } },
    { for role in ["logging.logWriter"] : "here ${role}" => { project = var.project, role = role } },
  )
}

resource "google_service_account" "rehearser" {
  project      = var.project
  account_id   = "rehearser"
  display_name = "Rehearses recovery"
}

resource "google_project_iam_member" "rehearser" {
  for_each = local.rehearsing
  project  = each.value.project
  role     = "roles/${each.value.role}"
  member   = google_service_account.rehearser.member
}

# What is made in the folder pulls images and asks for their attestation in the name of agents that are not there yet.
resource "google_project_iam_member" "rehearsed" {
  for_each = toset(["roles/artifactregistry.reader", "roles/binaryauthorization.attestorsVerifier"])
  project  = var.project
  role     = each.value
  member   = "principalSet://cloudresourcemanager.googleapis.com/folders/${var.rehearsal.folder}/type/ServiceAgent"
}

resource "google_cloudbuild_trigger" "rehearsal" {
  for_each        = local.rehearsals
  project         = var.project
  location        = var.region
  name            = "rehearsal-${each.key}"
  description     = each.value.description
  service_account = google_service_account.rehearser.id
  source_to_build {
    repository = var.repository
    ref        = "refs/heads/main"
    repo_type  = "GITHUB"
  }
  git_file_source {
    path       = "scripts/rehearsal.yaml"
    repository = var.repository
    revision   = "refs/heads/main"
    repo_type  = "GITHUB"
  }
  substitutions = merge(local.given, { _WHAT = each.key })
}

resource "google_cloud_scheduler_job" "rehearsal" {
  for_each  = local.rehearsals
  project   = var.project
  region    = var.region
  name      = "rehearsal-${each.key}"
  schedule  = each.value.schedule
  time_zone = "Europe/London"
  http_target {
    uri         = "https://cloudbuild.googleapis.com/v1/${google_cloudbuild_trigger.rehearsal[each.key].id}:run"
    http_method = "POST"
    body        = base64encode(jsonencode({ source = { branchName = "main" } }))
    headers     = { "Content-Type" = "application/json" }
    oauth_token {
      service_account_email = google_service_account.clock.email
    }
  }
}

resource "google_service_account_iam_member" "clock_rehearses" {
  service_account_id = google_service_account.rehearser.name
  role               = "roles/iam.serviceAccountUser"
  member             = google_service_account.clock.member
}
