terraform {
  backend "gcs" {
    bucket = "carefolio-test-terraform"
    prefix = "state"
  }
}
