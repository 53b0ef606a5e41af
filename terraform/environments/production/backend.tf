terraform {
  backend "gcs" {
    bucket = "carefolio-production-terraform"
    prefix = "state"
  }
}
