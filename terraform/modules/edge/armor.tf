# Cloud Armor: what is refused before it reaches a function.

locals {
  rules = ["sqli-v33-stable", "xss-v33-stable", "lfi-v33-stable", "rce-v33-stable", "protocolattack-v33-stable", "scannerdetection-v33-stable", "cve-canary"]
}

resource "google_compute_security_policy" "web" {
  #checkov:skip=CKV_GCP_73:cve-canary is among the rules, which the check does not follow
  project     = var.project
  name        = "${var.name}-web"
  description = "People and apps: attacks that have a pattern, sign-in by the thousand, floods."
  adaptive_protection_config {
    layer_7_ddos_defense_config {
      enable = true
    }
  }
  rule {
    priority    = 1000
    description = "Sign-in: nobody needs it once a second for minutes on end."
    action      = "rate_based_ban"
    match {
      expr {
        expression = "request.path.startsWith('/login') || request.path.startsWith('/account') || request.path.startsWith('/nhs-login') || request.path.startsWith('/oauth2/authorize')"
      }
    }
    rate_limit_options {
      conform_action = "allow"
      exceed_action  = "deny(429)"
      enforce_on_key = "IP"
      rate_limit_threshold {
        count        = 120
        interval_sec = 60
      }
      ban_duration_sec = 300
    }
  }
  dynamic "rule" {
    for_each = local.rules
    content {
      # Before sign-in is let through: the first rule that matches decides.
      priority    = 500 + rule.key
      description = "OWASP: ${rule.value}"
      action      = "deny(403)"
      preview     = var.rules_preview
      match {
        expr {
          expression = "evaluatePreconfiguredWaf('${rule.value}', {'sensitivity': 1})"
        }
      }
    }
  }
  rule {
    priority    = 2147483647
    description = "Everybody else, to 3000 requests a minute (an app that loads a record makes hundreds)."
    action      = "throttle"
    match {
      versioned_expr = "SRC_IPS_V1"
      config {
        src_ip_ranges = ["*"]
      }
    }
    rate_limit_options {
      conform_action = "allow"
      exceed_action  = "deny(429)"
      enforce_on_key = "IP"
      rate_limit_threshold {
        count        = 3000
        interval_sec = 60
      }
    }
  }
}

resource "google_compute_security_policy" "hl7" {
  #checkov:skip=CKV_GCP_73:hospitals on a list, and no Java behind it; a message may have any text in it
  project     = var.project
  name        = "${var.name}-hl7"
  description = "Hospitals, from the addresses on their lists. The allow rules are operations' (carefolio.cloud.edge)."
  rule {
    priority    = 100
    description = "Whether the door is there: the uptime checkers."
    action      = "allow"
    match {
      expr {
        expression = "request.path.startsWith('/hl7/health/')"
      }
    }
  }
  rule {
    priority    = 2147483647
    description = "Nobody else."
    action      = "deny(403)"
    match {
      versioned_expr = "SRC_IPS_V1"
      config {
        src_ip_ranges = ["*"]
      }
    }
  }
  lifecycle {
    ignore_changes = [rule]
  }
}
