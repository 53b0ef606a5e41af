# What an environment chooses.

variable "project" {
  description = "The project of the environment; nothing else is in it."
  type        = string
}

variable "environment" {
  description = "test, staging or production: what the functions say they are."
  type        = string
  validation {
    condition     = contains(["test", "staging", "production"], var.environment)
    error_message = "test, staging or production."
  }
}

variable "regions" {
  description = "The region that serves, and the one that stands by."
  type        = object({ primary = string, second = string })
}

variable "primary_region" {
  description = "primary, or second after a switch-over: where requests go and which database is written to."
  type        = string
}

variable "ranges" {
  description = "The ranges of addresses: of the functions in both regions, and of the database's network."
  type        = object({ primary = string, second = string, services = string })
}

variable "hosts" {
  description = "The names of the web, of the APIs and of the door for hospitals."
  type        = object({ web = string, api = string, hl7 = string })
}

variable "oldest_hl7_tls" {
  description = "The oldest TLS that hospitals may speak."
  type        = string
}

variable "rules_preview" {
  description = "Whether the OWASP rules only count."
  type        = bool
}

variable "hscn" {
  description = "The hospitals' door on HSCN (module edge); null for none."
  type        = object({ host = string, range = string, proxies = string })
}

variable "image" {
  description = "The image that a service is made with; from then on the pipeline changes it."
  type        = string
}

variable "functions" {
  description = "By function how many instances, requests at once and connections of each."
  type = map(object({
    min_instances = number
    max_instances = number
    concurrency   = number
    pool_size     = number
  }))
}

variable "database" {
  description = "The machine, its disk at first, its connections, and for how many days a moment can be restored."
  type        = object({ tier = string, disk_gb = number, max_connections = number, wal_days = number })
}

variable "secrets" {
  description = "By secret the version that is mounted (by number: going back takes the secret back too)."
  type        = map(string)
}

variable "settings" {
  description = "Further settings of the functions (carefolio.cloud.settings), such as SMTP_URL and PDS_URL."
  type        = map(string)
}

variable "mail" {
  description = "Who is woken: an e-mail address."
  type        = string
}

variable "audit_days" {
  description = "How long it is kept who did what to the platform."
  type        = number
}

variable "protected" {
  description = "Whether what holds data cannot be destroyed; off where re-provisioning is rehearsed."
  type        = bool
}

variable "files_location" {
  description = "Where the files are: a pair of regions, such as EUR5 (Belgium and London)."
  type        = string
}

variable "offsite" {
  description = "The project of the nightly exports, and for how many days nobody can delete them."
  type        = object({ project = string, days = number })
}

variable "delivery" {
  description = "The project that images come from (modules/delivery), and its number."
  type        = object({ project = string, number = string })
}

variable "perimeter" {
  description = "The organisation's access policy (its number), and who comes from outside to deploy and to operate (members); null where the project is inside another's perimeter."
  type        = object({ policy = string, visitors = list(string) })
}

variable "budget" {
  description = "The billing account, and what a month may cost in its currency; null for a project of hours."
  type        = object({ account = string, monthly = number })
}

variable "scanner" {
  description = "The image of the virus scanner (ClamAV) beside the functions that take files."
  type        = string
}

variable "trace_share" {
  description = "Of how many requests a trace is kept: 0 to 1."
  type        = number
  validation {
    condition     = var.trace_share >= 0 && var.trace_share <= 1
    error_message = "0 to 1."
  }
}
