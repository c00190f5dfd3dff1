"""composio-client against crm-sim: accounts, and a CRM's own requests by way of them."""

import composio_client
import pytest
from composio_client import Composio


@pytest.fixture
def client(sim):
    return Composio(api_key="composio-key", base_url=sim.composio, max_retries=0)


def proxy(client, method, endpoint, account="ca_salesforce", **more):
    return client.tools.proxy(method=method, endpoint=endpoint, connected_account_id=account, **more)


def test_accounts_are_listed_and_switched(sim, client):
    accounts = client.connected_accounts.list(toolkit_slugs=["hubspot"], statuses=["ACTIVE"]).items
    assert [account.id for account in accounts] == ["ca_hubspot"]
    client.connected_accounts.update_status("ca_hubspot", enabled=False)
    held = client.connected_accounts.retrieve("ca_hubspot")
    assert (held.status, held.toolkit.slug, held.user_id) == ("INACTIVE", "hubspot", "user-1")
    with pytest.raises(composio_client.UnprocessableEntityError, match="INACTIVE"):
        proxy(client, "GET", "/crm/v3/objects/contacts", "ca_hubspot")
    with pytest.raises(composio_client.NotFoundError):
        client.connected_accounts.retrieve("ca_none")


def test_a_record_goes_there_and_back(sim, client):
    made = proxy(client, "POST", "/services/data/v66.0/sobjects/Contact", body={"LastName": "Byron", "Score__c": 12.5})
    assert made.status == 201
    path = f"/services/data/v66.0/sobjects/Contact/{made.data['id']}"
    query = {"name": "fields", "value": "LastName,Score__c", "type": "query"}
    read = proxy(client, "GET", path, parameters=[query])
    assert (read.status, read.data["LastName"], read.data["Score__c"]) == (200, "Byron", 12.5)
    assert "api-usage=" in read.headers["sforce-limit-info"]
    assert proxy(client, "DELETE", path).status == 204
    assert sim.get("/objects/salesforce/Contact")["total"] == 0


def test_a_condition_and_a_refusal_of_the_crm_come_through(sim, client):
    made = proxy(client, "POST", "/services/data/v66.0/sobjects/Contact", body={"LastName": "Byron"})
    path = f"/services/data/v66.0/sobjects/Contact/{made.data['id']}"
    since = {"name": "If-Unmodified-Since", "value": "Fri, 02 Jan 2015 03:04:05 GMT", "type": "header"}
    stale = proxy(client, "PATCH", path, body={"LastName": "King"}, parameters=[since])
    assert stale.status == 412
    wrong = proxy(client, "PATCH", path, body={"Nothing": 1})
    assert (wrong.status, wrong.data[0]["errorCode"]) == (400, "INVALID_FIELD")


def test_the_broker_refuses_in_its_own_words(sim, client):
    with pytest.raises(composio_client.BadRequestError, match="OriginMismatch"):
        proxy(client, "GET", "https://elsewhere.test/services/data")
    with pytest.raises(composio_client.BadRequestError, match="No connected account"):
        proxy(client, "GET", "/services/data", "ca_none")
    with pytest.raises(composio_client.AuthenticationError):
        proxy(client.with_options(api_key="wrong"), "GET", "/services/data")
    sim.post("/config", vendor="composio", interval_limit=1)
    with pytest.raises(composio_client.RateLimitError) as limited:
        for _ in range(3):
            proxy(client, "GET", "/services/data/v66.0/limits")
    assert int(limited.value.response.headers["retry-after"]) > 0
    assert limited.value.response.headers["x-ratelimit-window-size"] == "600s"


def test_a_dropped_connection_of_the_crm_is_a_bad_gateway(sim, client):
    sim.post("/faults", vendor="salesforce", drop="after")
    with pytest.raises(composio_client.InternalServerError) as broken:
        proxy(client, "POST", "/services/data/v66.0/sobjects/Contact", body={"LastName": "Byron"})
    assert broken.value.status_code == 502
    # It was applied all the same.
    assert sim.get("/objects/salesforce/Contact")["total"] == 1


def test_tokens_are_renewed_until_the_crm_refuses(sim, client):
    sim.post("/tokens", vendor="salesforce", expire="all")
    assert proxy(client, "GET", "/services/data/v66.0/limits").status == 200
    sim.post("/tokens", vendor="salesforce", revoke="all")
    with pytest.raises(composio_client.UnprocessableEntityError, match="EXPIRED"):
        proxy(client, "GET", "/services/data/v66.0/limits")
    assert client.connected_accounts.retrieve("ca_salesforce").status == "EXPIRED"
