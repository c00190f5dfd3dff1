"""PowerPlatform-Dataverse-Client against crm-sim: create, read, update, upsert, delete, batches, and what is refused."""

import pytest
import requests
import tls
from azure.core.credentials import AccessToken, TokenCredential
from PowerPlatform.Dataverse.client import DataverseClient
from PowerPlatform.Dataverse.core.errors import HttpError
from PowerPlatform.Dataverse.models.upsert import UpsertItem


class Application(TokenCredential):
    """Client credentials, at the simulator's own token endpoint."""

    def __init__(self, address):
        self.address = address

    def get_token(self, *scopes, **_):
        form = {
            "grant_type": "client_credentials",
            "client_id": "d365-client",
            "client_secret": "d365-secret",
            "scope": scopes[0],
        }
        answer = requests.post(self.address + "/d365-tenant/oauth2/v2.0/token", data=form, timeout=10)
        answer.raise_for_status()
        return AccessToken(answer.json()["access_token"], 2**31)


@pytest.fixture
def client(sim, tmp_path):
    with tls.before(sim.dynamics365, tmp_path) as address:
        with DataverseClient(address, Application(sim.dynamics365)) as made:
            yield made


def test_records_go_there_and_back(sim, client):
    id = client.records.create("contact", {"lastname": "Byron", "crm_score": 12.5, "leadsourcecode": "Option 2"})
    client.records.update("contact", id, {"firstname": "Ada", "crm_score": None})
    held = client.records.retrieve("contact", id, select=["firstname", "lastname", "crm_score", "leadsourcecode"])
    assert held["firstname"] == "Ada" and held["lastname"] == "Byron"
    assert held["crm_score"] is None and held["leadsourcecode"] == 2
    assert held["contactid"] == id
    client.records.delete("contact", id)
    assert sim.get("/objects/dynamics365/contacts")["total"] == 0


def test_an_upsert_makes_no_twin(sim, client):
    for name in ("Byron", "King"):
        item = UpsertItem(alternate_key={"crm_externalkey": "K'1"}, record={"lastname": name})
        client.records.upsert("contact", [item])
    (record,) = sim.get("/objects/dynamics365/contacts")["records"]
    assert record["fields"] == {"crm_externalkey": "K'1", "lastname": "King"}


def test_a_batch_fails_in_part(sim, client):
    id = client.records.create("contact", {"lastname": "x"})
    batch = client.batch.new()
    batch.records.create("contact", {"lastname": "A"})
    batch.records.create("contact", {"lastname": "x" * 51})
    batch.records.update("contact", id, {"lastname": "é"})
    batch.records.retrieve("contact", id, select=["lastname"])
    result = batch.execute(continue_on_error=True)
    assert [item.status_code for item in result.responses] == [204, 400, 204, 200]
    assert result.responses[1].error_code == "0x80044331"
    assert result.responses[3].data["lastname"] == "é"
    assert sim.get("/objects/dynamics365/contacts")["total"] == 2


def test_refusals_are_understood(client):
    with pytest.raises(HttpError) as refused:
        client.records.create("contact", {"nope": "x"})
    assert (refused.value.status_code, refused.value.details["service_error_code"]) == (400, "0x80048d19")
    with pytest.raises(HttpError) as refused:
        client.records.update("contact", "0a000000-0000-4000-8000-000000000001", {"lastname": "x"})
    assert refused.value.status_code == 404
