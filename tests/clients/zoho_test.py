"""zohocrmsdk8_0 against crm-sim: tokens, insert, update, upsert, read, delete, and what is refused."""

import pytest
from zohocrmsdk.src.com.zoho.api.authenticator import OAuthToken
from zohocrmsdk.src.com.zoho.api.authenticator.store import FileStore
from zohocrmsdk.src.com.zoho.crm.api import HeaderMap, Initializer, ParameterMap
from zohocrmsdk.src.com.zoho.crm.api.dc import DataCenter
from zohocrmsdk.src.com.zoho.crm.api.record import (
    BodyWrapper,
    DeleteRecordsParam,
    Field,
    GetRecordsParam,
    Record,
    RecordOperations,
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
