# How many connections the functions may open, against what the database takes. No provider: tested by itself.
#
# Two revisions run side by side while a release is rolled out, so every function counts twice.

terraform {
  required_version = ">= 1.9"
}

variable "functions" {
  description = "By function: the most instances, and the connections of each (POOL_SIZE)."
  type        = map(object({ max_instances = number, pool_size = number }))
  validation {
    condition     = alltrue([for each in values(var.functions) : each.max_instances >= 1 && each.pool_size >= 1])
    error_message = "Every function has at least one instance and one connection."
  }
}

variable "jobs" {
  description = "Connections for migrations and people."
  type        = number
  default     = 10
}

variable "max_connections" {
  description = "What the database takes (its flag of the same name)."
  type        = number
}

locals {
  wanted = sum([for each in values(var.functions) : each.max_instances * each.pool_size]) * 2
  spare  = ceil(var.max_connections * 0.1)
}

output "connections" {
  description = "The most connections that functions, jobs and a tenth to spare come to."
  value       = local.wanted + var.jobs + local.spare
  precondition {
    condition     = local.wanted + var.jobs + local.spare <= var.max_connections
    error_message = "The functions may open ${local.wanted} connections while a release is rolled out (${var.jobs} for jobs and ${local.spare} to spare): more than max_connections = ${var.max_connections}."
  }
}
