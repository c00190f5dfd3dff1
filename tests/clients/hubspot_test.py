"""hubspot-api-client against crm-sim: single, batch, search and properties."""

import hubspot
import pytest
import requests
from hubspot.crm import contacts, objects, properties


def connect(sim, token="hs-token"):
    return hubspot.Client.create(access_token=token, host=sim.hubspot)


@pytest.fixture
def hs(sim):
    return connect(sim)


def create(hs, **values):
    body = contacts.SimplePublicObjectInputForCreate(properties=values, associations=[])
    return hs.crm.contacts.basic_api.create(body)


def test_single(hs):
    made = create(hs, email="Ada@Example.test", score="12.50", newsletter="true")
    assert made.properties["email"] == "ada@example.test"
    change = contacts.SimplePublicObjectInput(properties={"city": "London", "score": ""})
    hs.crm.contacts.basic_api.update(made.id, change)
    held = hs.crm.contacts.basic_api.get_by_id(
        "ada@example.test", id_property="email", properties=["city", "score", "newsletter"]
    )
    assert held.id == made.id
    assert held.properties["city"] == "London"
    assert held.properties["score"] is None
    assert held.properties["newsletter"] == "true"
    hs.crm.contacts.basic_api.archive(made.id)
    with pytest.raises(contacts.ApiException) as caught:
        hs.crm.contacts.basic_api.get_by_id(made.id)
    assert caught.value.status == 404


def test_a_record_that_breaks_rules_says_which(hs):
    for values, code in [
        ({"nope": "1"}, "PROPERTY_DOESNT_EXIST"),
        ({"lifecyclestage": "Lead"}, "INVALID_OPTION"),
        ({"createdate": "0"}, "READ_ONLY_VALUE"),
        ({"email": "nobody"}, "INVALID_EMAIL"),
        ({"birth_date": "yesterday"}, "INVALID_DATE"),
    ]:
        with pytest.raises(contacts.ApiException) as caught:
            create(hs, **values)
        assert caught.value.status == 400 and code in caught.value.body
    create(hs, email="ada@example.test")
    with pytest.raises(contacts.ApiException) as caught:
        create(hs, email="ADA@example.test")
    assert caught.value.status == 409


def test_batch_fails_in_part(sim, hs):
    inputs = [{"properties": {"external_key": f"K{n}"}, "associations": []} for n in range(100)]
    batch = contacts.BatchInputSimplePublicObjectBatchInputForCreate(inputs=inputs)
    made = hs.crm.contacts.batch_api.create(batch)
    assert len({record.id for record in made.results}) == 100
    ids = [record.id for record in made.results]
    changes = [{"id": id, "properties": {"city": "Oslo"}, "objectWriteTraceId": f"t-{id}"} for id in ids[:3]]
    changes.append({"id": "1", "properties": {"city": "Nowhere"}, "objectWriteTraceId": "t-lost"})
    answer = hs.crm.contacts.batch_api.update(
        contacts.BatchInputSimplePublicObjectBatchInput(inputs=changes)
    )
    assert {record.id for record in answer.results} == set(ids[:3])
    assert answer.num_errors == 1
    assert answer.errors[0].category == "OBJECT_NOT_FOUND"
    assert answer.errors[0].context["ids"] == ["1"]
    # One invalid input spoils the batch.
    changes[0]["properties"] = {"lifecyclestage": "nonsense"}
    changes[1]["properties"] = {"city": "Rome"}
    with pytest.raises(contacts.ApiException) as caught:
        hs.crm.contacts.batch_api.update(contacts.BatchInputSimplePublicObjectBatchInput(inputs=changes))
    assert caught.value.status == 400
    assert sim.get("/objects/hubspot/contacts", city="Rome")["total"] == 0


def test_batch_upsert_and_read(hs):
    def upsert(**cities):
        inputs = [
            {"id": key, "idProperty": "external_key", "properties": {"city": city}, "objectWriteTraceId": key}
            for key, city in cities.items()
        ]
        batch = objects.BatchInputSimplePublicObjectBatchInputUpsert(inputs=inputs)
        return hs.crm.objects.batch_api.upsert("contacts", batch)

    upsert(K1="Paris", K2="Rome")
    answer = upsert(K2="Milan", K3="Bonn")
    assert {record.object_write_trace_id: record.new for record in answer.results} == {"K2": False, "K3": True}
    wanted = contacts.BatchReadInputSimplePublicObjectId(
        inputs=[{"id": key} for key in ("K1", "K2", "K3", "K4")],
        id_property="external_key",
        properties=["city"],
        properties_with_history=["city"],
    )
    answer = hs.crm.contacts.batch_api.read(wanted)
    assert sorted(record.properties["city"] for record in answer.results) == ["Bonn", "Milan", "Paris"]
    assert answer.errors[0].context["ids"] == ["K4"]
    milan = next(record for record in answer.results if record.properties["city"] == "Milan")
    assert [past.value for past in milan.properties_with_history["city"]] == ["Milan", "Rome"]


def test_search(hs):
    inputs = [{"properties": {"lastname": f"L{n:03}", "score": str(n)}, "associations": []} for n in range(100)]
    hs.crm.contacts.batch_api.create(contacts.BatchInputSimplePublicObjectBatchInputForCreate(inputs=inputs))
    request = contacts.PublicObjectSearchRequest(
        filter_groups=[{"filters": [{"propertyName": "score", "operator": "GTE", "value": "50"}]}],
        sorts=["lastname"],
        properties=["lastname"],
        limit=20,
        after="0",
    )
    found = []
    while True:
        page = hs.crm.contacts.search_api.do_search(request)
        assert page.total == 50
        found += [record.properties["lastname"] for record in page.results]
        if page.paging is None:
            break
        request.after = page.paging.next.after
    assert found == [f"L{n:03}" for n in range(50, 100)]
    request.after = "10000"
    with pytest.raises(contacts.ApiException) as caught:
        hs.crm.contacts.search_api.do_search(request)
    assert caught.value.status == 400


def test_properties(hs):
    held = {each.name: each for each in hs.crm.properties.core_api.get_all("contacts").results}
    assert held["external_key"].has_unique_value
    assert held["hs_object_id"].modification_metadata.read_only_value
    hs.crm.properties.core_api.create(
        "contacts",
        properties.PropertyCreate(
            name="tier",
            label="Tier",
            type="enumeration",
            field_type="select",
            group_name="contactinformation",
            options=[{"label": "A", "value": "a", "hidden": False, "displayOrder": 0}],
        ),
    )
    assert create(hs, tier="a").properties["tier"] == "a"
    with pytest.raises(contacts.ApiException):
        create(hs, tier="b")


def test_an_expired_token_is_refreshed(sim, hs):
    create(hs, lastname="Before")
    sim.post("/tokens", vendor="hubspot", expire="all")
    with pytest.raises(contacts.ApiException) as caught:
        create(hs, lastname="Between")
    assert caught.value.status == 401 and "EXPIRED_AUTHENTICATION" in caught.value.body
    form = {
        "grant_type": "refresh_token",
        "refresh_token": "hs-refresh",
        "client_id": "hs-client",
        "client_secret": "hs-secret",
    }
    answer = requests.post(sim.hubspot + "/oauth/v1/token", data=form, timeout=10).json()
    create(connect(sim, answer["access_token"]), lastname="After")
    held = sim.get("/objects/hubspot/contacts")["records"]
    assert [record["fields"]["lastname"] for record in held] == ["Before", "After"]
