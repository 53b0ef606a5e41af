# What a month may cost, and who is told before it has.

variable "budget" {
  description = "The billing account, and what a month may cost in its currency; null for a project of hours."
  type        = object({ account = string, monthly = number })
}

resource "google_billing_budget" "month" {
  count           = var.budget == null ? 0 : 1
  billing_account = var.budget.account
  display_name    = var.project
  budget_filter {
    projects = ["projects/${data.google_project.here.number}"]
  }
  amount {
    specified_amount {
      units = tostring(var.budget.monthly)
    }
  }
  dynamic "threshold_rules" {
    for_each = [0.5, 0.9, 1.0]
    content {
      threshold_percent = threshold_rules.value
    }
  }
  # A loop that spends is seen in the forecast first.
  threshold_rules {
    threshold_percent = 1.2
    spend_basis       = "FORECASTED_SPEND"
  }
  all_updates_rule {
    monitoring_notification_channels = [google_monitoring_notification_channel.mail.id]
  }
}

data "google_project" "here" {
  project_id = var.project
}
