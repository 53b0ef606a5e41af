terraform {
  backend "gcs" {
    bucket = "carefolio-staging-terraform"
    prefix = "state"
  }
}
