# Which images may run here: those that Cloud Build made of a commit (its own attestor signs them), and the virus scanner.

variable "attestor" {
  description = "The attestor of the project that images come from: projects/P/attestors/built-by-cloud-build."
  type        = string
}

variable "scanner" {
  description = "The image of the virus scanner, which is not ours."
  type        = string
}

resource "google_binary_authorization_policy" "here" {
  project                       = var.project
  description                   = "What Cloud Build made of a commit, and the virus scanner"
  global_policy_evaluation_mode = "ENABLE"
  default_admission_rule {
    evaluation_mode         = "REQUIRE_ATTESTATION"
    enforcement_mode        = "ENFORCED_BLOCK_AND_AUDIT_LOG"
    require_attestations_by = [var.attestor]
  }
  admission_whitelist_patterns {
    # Whatever its tag or digest: the repository keeps published images alone.
    name_pattern = "${split(":", var.scanner)[0]}*"
  }
}
