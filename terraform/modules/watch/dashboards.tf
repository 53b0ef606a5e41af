# What an operator looks at: one dashboard for the whole, one for each function.

variable "functions" {
  description = "By function its service."
  type        = map(string)
}

locals {
  of_function = {
    for name, service in var.functions : name => [
      for title, each in {
        "Answers by class"                  = { metric = "run.googleapis.com/request_count", aligner = "ALIGN_RATE", group = ["metric.label.response_code_class"] }
        "Median, ms"                        = { metric = "run.googleapis.com/request_latencies", aligner = "ALIGN_PERCENTILE_50", group = [] }
        "95th percentile, ms"               = { metric = "run.googleapis.com/request_latencies", aligner = "ALIGN_PERCENTILE_95", group = ["resource.label.revision_name"] }
        "99th percentile, ms"               = { metric = "run.googleapis.com/request_latencies", aligner = "ALIGN_PERCENTILE_99", group = ["resource.label.revision_name"] }
        "Instances"                         = { metric = "run.googleapis.com/container/instance_count", aligner = "ALIGN_MAX", group = ["metric.label.state"] }
        "Requests at once, 99th percentile" = { metric = "run.googleapis.com/container/max_request_concurrencies", aligner = "ALIGN_PERCENTILE_99", group = [] }
        "Processor"                         = { metric = "run.googleapis.com/container/cpu/utilizations", aligner = "ALIGN_PERCENTILE_95", group = [] }
        "Memory"                            = { metric = "run.googleapis.com/container/memory/utilizations", aligner = "ALIGN_PERCENTILE_95", group = [] }
        "Cold starts, ms"                   = { metric = "run.googleapis.com/container/startup_latencies", aligner = "ALIGN_PERCENTILE_95", group = [] }
      } : merge(each, { title = title, filter = "metric.type=\"${each.metric}\" resource.type=\"cloud_run_revision\" resource.label.service_name=\"${service}\"" })
    ]
  }
}

resource "google_monitoring_dashboard" "function" {
  for_each = local.of_function
  project  = var.project
  dashboard_json = jsonencode({
    displayName = "Carefolio ${each.key}"
    mosaicLayout = {
      columns = 12
      tiles = [for index, tile in each.value : {
        width = 4, height = 3, xPos = (index % 3) * 4, yPos = floor(index / 3) * 3
        widget = {
          title = tile.title
          xyChart = {
            dataSets = [{
              plotType = "LINE"
              timeSeriesQuery = { timeSeriesFilter = {
                filter      = tile.filter
                aggregation = { alignmentPeriod = "60s", perSeriesAligner = tile.aligner, crossSeriesReducer = tile.aligner == "ALIGN_RATE" ? "REDUCE_SUM" : "REDUCE_MAX", groupByFields = tile.group }
              } }
            }]
          }
        }
      }]
    }
  })
}

resource "google_monitoring_dashboard" "whole" {
  project = var.project
  dashboard_json = jsonencode({
    displayName = "Carefolio"
    mosaicLayout = {
      columns = 12
      tiles = [for index, tile in concat(
        [for door, backend in var.backends : { title = "${door}: requests by class", filter = "metric.type=\"loadbalancing.googleapis.com/https/request_count\" resource.type=\"https_lb_rule\" resource.label.backend_target_name=\"${backend}\"", aligner = "ALIGN_RATE" }],
        [for door, backend in var.backends : { title = "${door}: 99th percentile, ms", filter = "metric.type=\"loadbalancing.googleapis.com/https/total_latencies\" resource.type=\"https_lb_rule\" resource.label.backend_target_name=\"${backend}\"", aligner = "ALIGN_PERCENTILE_99" }],
        [for title, limit in local.limits : { title = title, filter = limit.filter, aligner = limit.reducer }],
        ) : {
        width = 4, height = 3, xPos = (index % 3) * 4, yPos = floor(index / 3) * 3
        widget = {
          title = tile.title
          xyChart = {
            dataSets = [{
              plotType        = "LINE"
              timeSeriesQuery = { timeSeriesFilter = { filter = tile.filter, aggregation = { alignmentPeriod = "60s", perSeriesAligner = tile.aligner } } }
            }]
          }
        }
      }]
    }
  })
}
