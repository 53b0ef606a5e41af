run "fits" {
  command = plan
  variables {
    functions       = { fhir = { max_instances = 10, pool_size = 10 }, hl7 = { max_instances = 5, pool_size = 4 } }
    max_connections = 300
  }
  assert {
    condition     = output.connections == 280
    error_message = "2 x (100 + 20) + 10 + 30"
  }
}

run "too_many_while_a_release_rolls_out" {
  command = plan
  variables {
    functions       = { fhir = { max_instances = 20, pool_size = 10 } }
    max_connections = 400
  }
  expect_failures = [output.connections]
}

run "no_instance_at_all" {
  command = plan
  variables {
    functions       = { fhir = { max_instances = 0, pool_size = 10 } }
    max_connections = 400
  }
  expect_failures = [var.functions]
}
