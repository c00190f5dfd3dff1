"""zohocrmsdk8_0 against crm-sim: tokens, records in many and one by one, external ids, searches, pages, COQL, and what is refused."""

import datetime

import pytest
from zohocrmsdk.src.com.zoho.api.authenticator import OAuthToken
from zohocrmsdk.src.com.zoho.api.authenticator.store import FileStore
from zohocrmsdk.src.com.zoho.crm.api import HeaderMap, Initializer, ParameterMap
from zohocrmsdk.src.com.zoho.crm.api.coql import BodyWrapper as QueryBody
from zohocrmsdk.src.com.zoho.crm.api.coql import CoqlOperations
from zohocrmsdk.src.com.zoho.crm.api.dc import DataCenter
from zohocrmsdk.src.com.zoho.crm.api.record import (
    BodyWrapper,
    DeleteRecordsParam,
    Field,
    GetRecordsHeader,
    GetRecordsParam,
    GetRecordUsingExternalIDHeader,
    Record,
    RecordOperations,
    SearchRecordsParam,
    UpdateRecordUsingExternalIDHeader,
)
from zohocrmsdk.src.com.zoho.crm.api.sdk_config import SDKConfig
from zohocrmsdk.src.com.zoho.crm.api.util import Choice


@pytest.fixture
def contacts(sim, tmp_path):
    environment = DataCenter.Environment(sim.zoho, sim.zoho + "/oauth/v2/token", sim.zoho)
    token = OAuthToken(
        client_id="zoho-client", client_secret="zoho-secret", refresh_token="zoho-refresh", find_user=False
    )
    Initializer.initialize(
        environment=environment,
        token=token,
        store=FileStore(str(tmp_path / "tokens.txt")),
        sdk_config=SDKConfig(auto_refresh_fields=False, pick_list_validation=False),
        resource_path=str(tmp_path),
    )
    return RecordOperations("Contacts")


def record(id=None, **values):
    made = Record()
    if id:
        made.set_id(int(id))
    for name, value in values.items():
        made.add_key_value(name, value)
    return made


def body(*records, keys=None):
    wrapper = BodyWrapper()
    wrapper.set_data(list(records))
    if keys:
        wrapper.set_duplicate_check_fields(keys)
    return wrapper


def outcomes(answer):
    return [
        (item.get_status().get_value(), item.get_code().get_value(), item.get_details())
        for item in answer.get_object().get_data()
    ]


def test_records_go_there_and_back(sim, contacts):
    made = record(Last_Name="Byron", Score=12.5, Lead_Source=Choice("Web"), External_Key="K1")
    made.add_field_value(Field.Contacts.first_name(), "Ada")
    (status, code, details), = outcomes(contacts.create_records(body(made), HeaderMap()))
    assert (status, code) == ("success", "SUCCESS")
    id = details["id"]
    changed = contacts.update_records(body(record(id, First_Name=None, Email_Opt_Out=True)), HeaderMap())
    assert outcomes(changed)[0][:2] == ("success", "SUCCESS")
    parameters = ParameterMap()
    parameters.add(GetRecordsParam.ids, str(id))
    parameters.add(GetRecordsParam.fields, "First_Name,Last_Name,Score,Lead_Source,Email_Opt_Out")
    held = contacts.get_records(parameters, HeaderMap()).get_object().get_data()[0]
    assert str(held.get_id()) == str(id)
    assert held.get_key_value("First_Name") is None
    assert held.get_key_value("Last_Name") == "Byron"
    assert held.get_key_value("Score") == 12.5
    assert held.get_key_value("Lead_Source").get_value() == "Web"
    assert held.get_key_value("Email_Opt_Out") is True
    again = record(Last_Name="King", External_Key="K1")
    upserted = contacts.upsert_records(body(again, keys=["External_Key"]), HeaderMap())
    assert str(outcomes(upserted)[0][2]["id"]) == str(id)
    assert sim.get("/objects/zoho/Contacts")["total"] == 1
    parameters = ParameterMap()
    parameters.add(DeleteRecordsParam.ids, str(id))
    assert outcomes(contacts.delete_records(parameters, HeaderMap()))[0][0] == "success"
    assert sim.get("/objects/zoho/Contacts")["total"] == 0


def test_a_batch_fails_in_part(contacts):
    records = [record(Last_Name="A", External_Key="K"), record(Last_Name="x" * 81), record(Last_Name="B", External_Key="K")]
    told = outcomes(contacts.create_records(body(*records), HeaderMap()))
    assert [code for _, code, _ in told] == ["SUCCESS", "INVALID_DATA", "DUPLICATE_DATA"]


def parameters(**values):
    made = ParameterMap()
    for name, (kind, value) in values.items():
        made.add(getattr(kind, name), value)
    return made


def names(answer):
    """Of records, in their order; an answer without a body has none."""
    held = answer.get_object()
    return [record.get_key_value("Last_Name") for record in held.get_data()] if held else []


def test_one_record_by_its_path(sim, contacts):
    ((_, _, details),) = outcomes(contacts.create_records(body(record(Last_Name="Byron")), HeaderMap()))
    id = int(details["id"])
    changed = contacts.update_record(id, body(record(First_Name="Ada", Score=1.005)), HeaderMap())
    assert outcomes(changed)[0][:2] == ("success", "SUCCESS")
    (held,) = contacts.get_record(id, ParameterMap(), HeaderMap()).get_object().get_data()
    assert (held.get_key_value("First_Name"), held.get_key_value("Score")) == ("Ada", 1.01)
    assert outcomes(contacts.delete_record(id, ParameterMap(), HeaderMap()))[0][0] == "success"
    assert contacts.get_record(id, ParameterMap(), HeaderMap()).get_status_code() == 204


def test_records_by_an_external_id(sim, contacts):
    contacts.create_records(body(record(Last_Name="Byron", External_Key="K1")), HeaderMap())
    header = HeaderMap()
    header.add(UpdateRecordUsingExternalIDHeader.x_external, "Contacts.External_Key")
    changed = contacts.update_record_using_external_id("K1", body(record(Last_Name="King")), header)
    assert outcomes(changed)[0][:2] == ("success", "SUCCESS")
    header = HeaderMap()
    header.add(GetRecordUsingExternalIDHeader.x_external, "Contacts.External_Key")
    assert names(contacts.get_record_using_external_id("K1", ParameterMap(), header)) == ["King"]


def test_lookups_by_numbers(sim, contacts):
    """The library holds ids as integers, and sends them so."""
    firms = RecordOperations("Accounts")
    ((_, _, details),) = outcomes(firms.create_records(body(record(Account_Name="Acme")), HeaderMap()))
    firm = int(details["id"])
    told = outcomes(contacts.create_records(body(record(Last_Name="x", Account_Name=record(firm))), HeaderMap()))
    assert told[0][:2] == ("success", "SUCCESS")
    (held,) = sim.get("/objects/zoho/Contacts")["records"]
    assert held["fields"]["Account_Name"]["id"] == str(firm)
    told = outcomes(contacts.create_records(body(record(Last_Name="x", Account_Name=record(firm + 1))), HeaderMap()))
    assert told[0][1] == "INVALID_DATA"


def test_searches(contacts):
    people = [record(Last_Name="Byron", Email="ada@x.test", Phone="123"), record(Last_Name="Bo (x)"), record(Last_Name="Cy")]
    contacts.create_records(body(*people), HeaderMap())

    def find(**values):
        return names(contacts.search_records(parameters(**{k: (SearchRecordsParam, v) for k, v in values.items()}), HeaderMap()))

    assert find(criteria="(Last_Name:starts_with:B)") == ["Byron", "Bo (x)"]
    assert find(criteria="((Last_Name:equals:Bo \\(x\\))or(Email:equals:ada@x.test))") == ["Byron", "Bo (x)"]
    assert find(email="ada@x.test") == find(phone="123") == find(word="byr") == ["Byron"]
    assert find(email="nobody@x.test") == []


def test_pages_by_token(sim, contacts):
    sim._call("POST", "/objects/zoho/Contacts", json=[{"fields": {"Last_Name": str(n)}} for n in range(2100)])
    seen, told = [], {"page": (GetRecordsParam, 1)}
    while told:
        wanted = parameters(fields=(GetRecordsParam, "Last_Name"), sort_order=(GetRecordsParam, "asc"), **told)
        page = contacts.get_records(wanted, HeaderMap()).get_object()
        seen += [record.get_key_value("Last_Name") for record in page.get_data()]
        token = page.get_info().get_next_page_token()
        told = {"page_token": (GetRecordsParam, token)} if page.get_info().get_more_records() else None
    assert seen == [str(n) for n in range(2100)]
    wanted = parameters(fields=(GetRecordsParam, "Last_Name"), page=(GetRecordsParam, 11))
    refused = contacts.get_records(wanted, HeaderMap()).get_object()
    assert refused.get_code().get_value() == "DISCRETE_PAGINATION_LIMIT_EXCEEDED"


def test_what_did_not_change_is_not_read(contacts):
    contacts.create_records(body(record(Last_Name="x")), HeaderMap())
    header = HeaderMap()
    header.add(GetRecordsHeader.if_modified_since, datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1))
    answer = contacts.get_records(parameters(fields=(GetRecordsParam, "Last_Name")), header)
    assert answer.get_status_code() == 304


def test_queries(contacts):
    contacts.create_records(body(*[record(Last_Name=n, Score=float(len(n))) for n in ("A", "BB", "CCC")]), HeaderMap())

    def ask(condition):
        query = QueryBody()
        query.set_select_query(f"select Last_Name from Contacts where {condition}")
        return names(CoqlOperations().get_records(query))

    assert ask("Last_Name in ('a', 'ccc')") == ["A", "CCC"]
    assert ask("Score between 2 and 3 order by Score desc") == ["CCC", "BB"]
    assert ask("(Last_Name like '%b%' or Score is null)") == ["BB"]
    assert ask("id is not null limit 2 offset 1") == ["BB", "CCC"]
