"""simple-salesforce against crm-sim: rows, query, upsert, Collections and Bulk API 2.0."""

import pytest
import requests
from requests.adapters import HTTPAdapter
from simple_salesforce import Salesforce
from simple_salesforce.exceptions import (
    SalesforceExpiredSession,
    SalesforceMalformedRequest,
    SalesforceResourceNotFound,
)


class Plain(HTTPAdapter):
    """The client insists on https; the simulator speaks http."""

    def send(self, request, **arguments):
        request.url = request.url.replace("https://", "http://", 1)
        return super().send(request, **arguments)


def connect(sim, token="sf-token"):
    session = requests.Session()
    session.mount("https://", Plain())
    return Salesforce(instance_url=sim.salesforce, session_id=token, version="66.0", session=session)


@pytest.fixture
def sf(sim):
    return connect(sim)


def test_rows(sf):
    made = sf.Contact.create({"LastName": "  Lovelace ", "Score__c": 100, "Email": "ada@example.test"})
    assert made["success"] and len(made["id"]) == 18
    sf.Contact.update(made["id"], {"Title": "Countess", "Email": None})
    held = sf.Contact.get(made["id"])
    assert held["LastName"] == "Lovelace"
    assert held["Title"] == "Countess"
    assert held["Email"] is None
    assert held["Score__c"] == 100.0 and isinstance(held["Score__c"], float)
    assert sf.Contact.get(made["id"][:15])["Id"] == made["id"]
    sf.Contact.delete(made["id"])
    with pytest.raises(SalesforceResourceNotFound):
        sf.Contact.get(made["id"])


def test_a_row_that_breaks_rules_says_which(sf):
    cases = [
        ({"FirstName": "No last name"}, "REQUIRED_FIELD_MISSING"),
        ({"LastName": "x", "Nope__c": 1}, "INVALID_FIELD"),
        ({"LastName": "x" * 81}, "STRING_TOO_LONG"),
        ({"LastName": "x", "Email": "nobody"}, "INVALID_EMAIL_ADDRESS"),
        ({"LastName": "x", "Interests__c": "Zoos"}, "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST"),
        ({"LastName": "x", "Score__c": "many"}, "JSON_PARSER_ERROR"),
        ({"LastName": "x", "CreatedDate": "2026-01-01T00:00:00Z"}, "INVALID_FIELD_FOR_INSERT_UPDATE"),
    ]
    for record, code in cases:
        with pytest.raises(SalesforceMalformedRequest) as caught:
            sf.Contact.create(record)
        assert caught.value.content[0]["errorCode"] == code


def test_upsert_by_external_id(sf):
    assert sf.Contact.upsert("External_Key__c/K%2F1", {"LastName": "One"}) == 201
    assert sf.Contact.upsert("External_Key__c/K%2F1", {"LastName": "Two"}) == 200
    assert sf.Contact.get_by_custom_id("External_Key__c", "K/1")["LastName"] == "Two"


def test_query_pages_and_describe(sf):
    people = [{"LastName": f"P{n:04}", "Score__c": n} for n in range(2500)]
    for start in range(0, len(people), 200):
        chunk = [{"attributes": {"type": "Contact"}, **person} for person in people[start : start + 200]]
        sf.restful("composite/sobjects", method="POST", json={"records": chunk})
    first = sf.query("SELECT Id, LastName FROM Contact ORDER BY LastName")
    assert first["totalSize"] == 2500 and not first["done"]
    everyone = list(sf.query_all_iter("SELECT LastName FROM Contact ORDER BY LastName"))
    assert [person["LastName"] for person in everyone] == [person["LastName"] for person in people]
    few = sf.query("SELECT LastName FROM Contact WHERE Score__c >= 2490 AND (NOT LastName LIKE 'P%_5')")
    assert few["totalSize"] == 9
    fields = {field["name"]: field for field in sf.Contact.describe()["fields"]}
    assert fields["External_Key__c"]["externalId"] and fields["LastName"]["length"] == 80
    assert "Contact" in [thing["name"] for thing in sf.describe()["sobjects"]]


def test_collections_fail_in_part(sf):
    def record(**fields):
        return {"attributes": {"type": "Account"}, **fields}

    body = {"records": [record(Name="A"), record(Phone="1"), record(Name="C")]}
    results = sf.restful("composite/sobjects", method="POST", json=body)
    assert [result["success"] for result in results] == [True, False, True]
    assert results[1]["errors"][0]["statusCode"] == "REQUIRED_FIELD_MISSING"
    assert sf.query("SELECT COUNT() FROM Account")["totalSize"] == 2
    body["allOrNone"] = True
    results = sf.restful("composite/sobjects", method="POST", json=body)
    codes = [result["errors"][0]["statusCode"] for result in results]
    assert codes == ["ALL_OR_NONE_OPERATION_ROLLED_BACK", "REQUIRED_FIELD_MISSING", codes[0]]
    assert sf.query("SELECT COUNT() FROM Account")["totalSize"] == 2


def test_bulk2(sf):
    people = [{"External_Key__c": f"K{n}", "LastName": f"L{n}", "Score__c": str(n)} for n in range(500)]
    people[7]["Score__c"] = "seven"
    [done] = sf.bulk2.Contact.upsert(records=people, external_id_field="External_Key__c", wait=0)
    assert done["numberRecordsProcessed"] == 500 and done["numberRecordsFailed"] == 1
    good = sf.bulk2.Contact.get_successful_records(done["job_id"])
    assert good.count("\n") == 500 and '"sf__Id","sf__Created"' in good
    bad = sf.bulk2.Contact.get_failed_records(done["job_id"])
    assert "INVALID_TYPE_ON_FIELD_IN_RECORD" in bad and "K7" in bad
    pages = sf.bulk2.Contact.query("SELECT External_Key__c, Score__c FROM Contact", max_records=200, wait=0)
    rows = [row for page in pages for row in page.splitlines()[1:]]
    assert len(rows) == 499 and "K1,1.0" in rows
    id_of = {person["External_Key__c"]: person["Id"] for person in sf.query_all(
        "SELECT Id, External_Key__c FROM Contact")["records"]}
    [done] = sf.bulk2.Contact.update(records=[{"Id": id_of["K1"], "Score__c": "#N/A", "LastName": ""}], wait=0)
    assert done["numberRecordsFailed"] == 0
    held = sf.Contact.get(id_of["K1"])
    assert held["Score__c"] is None and held["LastName"] == "L1"
    [done] = sf.bulk2.Contact.delete(records=[{"Id": id_of["K1"]}], wait=0)
    assert done["numberRecordsFailed"] == 0
    assert sf.query("SELECT COUNT() FROM Contact")["totalSize"] == 498


def test_an_expired_token_is_refreshed(sim, sf):
    sf.Account.create({"Name": "Before"})
    sim.post("/tokens", vendor="salesforce", expire="all")
    with pytest.raises(SalesforceExpiredSession) as caught:
        sf.Account.create({"Name": "Between"})
    assert caught.value.content[0]["errorCode"] == "INVALID_SESSION_ID"
    form = {"grant_type": "refresh_token", "refresh_token": "sf-refresh", "client_id": "sf-client"}
    answer = requests.post(sim.salesforce + "/services/oauth2/token", data=form, timeout=10).json()
    assert answer["instance_url"] == sim.salesforce
    connect(sim, answer["access_token"]).Account.create({"Name": "After"})
    held = sim.get("/objects/salesforce/Account")["records"]
    assert [record["fields"]["Name"] for record in held] == ["Before", "After"]
