"""fhirclient (SMART's own), unchanged: its strict models read and write what we serve.

BASE and TOKEN are in the environment.
"""

from __future__ import annotations

import os
import uuid

from fhirclient import client
from fhirclient.models.fhirdate import FHIRDate
from fhirclient.models.humanname import HumanName
from fhirclient.models.observation import Observation
from fhirclient.models.patient import Patient

smart = client.FHIRClient(settings={"app_id": "carefolio-test", "api_base": os.environ["BASE"]})
smart.server.session.headers["Authorization"] = f"Bearer {os.environ['TOKEN']}"
statement = smart.server.capabilityStatement
assert statement is None or statement.fhirVersion == "4.0.1"
family = f"Client{uuid.uuid4().hex}"
patient = Patient({"name": [{"family": family}], "gender": "female"})
patient.birthDate = FHIRDate("1980-02-29") if hasattr(FHIRDate, "isostring") else patient.birthDate
created = patient.create(smart.server)
number = created["id"]
read = Patient.read(number, smart.server)
assert read.name[0].family == family
read.name = [HumanName({"family": family, "given": ["Ada"]})]
read.update(smart.server)
assert Patient.read(number, smart.server).name[0].given == ["Ada"]
for value in range(3):
    Observation(
        {
            "status": "final",
            "code": {"text": "weight"},
            "subject": {"reference": f"Patient/{number}"},
            "valueQuantity": {"value": 70.5 + value, "unit": "kg"},
        }
    ).create(smart.server)
found = Observation.where(struct={"patient": number, "_count": "2"}).perform_resources(smart.server)
assert found
assert all(isinstance(each, Observation) for each in found)
bundle = Patient.where(struct={"family": family}).perform(smart.server)
assert bundle.total == 1
Patient.read(number, smart.server).delete()
print("fhirclient: good")
