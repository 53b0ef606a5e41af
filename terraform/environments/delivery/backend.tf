terraform {
  backend "gcs" {
    bucket = "carefolio-delivery-terraform"
    prefix = "state"
  }
}
