# What runs to its end: the migrations, what operators type, and the question whether a new revision is ready.

# Brings the schema to the newest before a release (the pipeline runs it): with the rights of none of the functions.
resource "google_cloud_run_v2_job" "migrate" {
  project             = var.project
  name                = "${var.name}-migrate"
  location            = var.region
  deletion_protection = var.deletion_protection
  binary_authorization {
    use_default = true
  }
  template {
    template {
      service_account = var.accounts["migrate"]
      timeout         = "3600s"
      max_retries     = 0
      vpc_access {
        egress = "PRIVATE_RANGES_ONLY"
        network_interfaces {
          subnetwork = var.subnet
        }
      }
      containers {
        image   = var.image
        command = ["python", "-m", "carefolio.cli", "migrate"]
        dynamic "env" {
          for_each = merge(var.environment, { DATABASE_USER = trimsuffix(var.accounts["migrate"], ".gserviceaccount.com") })
          content {
            name  = env.key
            value = env.value
          }
        }
      }
    }
  }
  lifecycle {
    ignore_changes = [template[0].template[0].containers[0].image, client, client_version]
  }
}

# What an operator types, where the functions run: gcloud run jobs execute carefolio-command --args audit,verify
resource "google_cloud_run_v2_job" "command" {
  project             = var.project
  name                = "${var.name}-command"
  location            = var.region
  deletion_protection = var.deletion_protection
  binary_authorization {
    use_default = true
  }
  template {
    template {
      service_account = var.accounts["command"]
      timeout         = "3600s"
      max_retries     = 0
      vpc_access {
        egress = "PRIVATE_RANGES_ONLY"
        network_interfaces {
          subnetwork = var.subnet
        }
      }
      containers {
        image   = var.image
        command = ["python", "-m", "carefolio.cli"]
        args    = ["--help"]
        dynamic "env" {
          for_each = merge(var.environment, { DATABASE_USER = trimsuffix(var.accounts["command"], ".gserviceaccount.com") })
          content {
            name  = env.key
            value = env.value
          }
        }
        dynamic "volume_mounts" {
          for_each = var.command
          content {
            name       = volume_mounts.value
            mount_path = "/secrets/${volume_mounts.value}"
          }
        }
      }
      dynamic "volumes" {
        for_each = var.command
        content {
          name = volumes.value
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
  }
  lifecycle {
    ignore_changes = [template[0].template[0].containers[0].image, client, client_version]
  }
}

# Asks the new revisions whether they are ready, by their tagged addresses, which answer inside the network alone: the
# rollout runs it with those before anybody else is sent there (scripts/rollout.py).
resource "google_cloud_run_v2_job" "smoke" {
  project             = var.project
  name                = "${var.name}-smoke"
  location            = var.region
  deletion_protection = var.deletion_protection
  binary_authorization {
    use_default = true
  }
  template {
    template {
      service_account = var.caller
      timeout         = "600s"
      max_retries     = 0
      vpc_access {
        egress = "ALL_TRAFFIC"
        network_interfaces {
          subnetwork = var.subnet
        }
      }
      containers {
        image   = var.image
        command = ["python", "/carefolio/scripts/rollout.py"]
        args    = ["ask"]
        env {
          name  = "PUSH_AUDIENCE"
          value = var.audience
        }
      }
    }
  }
  lifecycle {
    ignore_changes = [template[0].template[0].containers[0].image, client, client_version]
  }
}
