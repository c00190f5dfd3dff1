"""aiosalesforce against crm-sim: rows, queries, Composite, batches and Bulk API 2.0."""

import asyncio

import aiosalesforce
import httpx
import pytest
from aiosalesforce.auth import ClientCredentialsFlow


class Plain(httpx.AsyncHTTPTransport):
    """The client insists on a host of Salesforce's; the simulator stands in for it."""

    def __init__(self, address):
        super().__init__()
        self.address = httpx.URL(address)

    async def handle_async_request(self, request):
        here = self.address
        request.url = request.url.copy_with(scheme=here.scheme, host=here.host, port=here.port)
        return await super().handle_async_request(request)


def run(sim, work):
    async def main():
        auth = ClientCredentialsFlow(client_id="sf-client", client_secret="sf-secret")
        async with httpx.AsyncClient(transport=Plain(sim.salesforce)) as client:
            sf = aiosalesforce.Salesforce(client, "https://crm.my.salesforce.com", auth, version="66.0")
            await work(sf)

    asyncio.run(main())


async def rows(sf, soql):
    return [row async for row in sf.query(soql)]


def test_rows_and_queries(sim):
    async def work(sf):
        acme = await sf.sobject.create("Account", {"Name": "Acme", "External_Key__c": "A"})
        ada = await sf.sobject.create(
            "Contact", {"LastName": "Ada", "Score__c": 2.675, "Account": {"External_Key__c": "a"}}
        )
        held = await sf.sobject.get("Contact", ada, fields=["Score__c", "AccountId"])
        assert (held["Score__c"], held["AccountId"]) == (2.68, acme)
        await sf.sobject.update("Contact", ada, {"Title": "Countess"})
        done = await sf.sobject.upsert("Contact", "K1", "External_Key__c", {"LastName": "Bob"})
        assert done.created
        done = await sf.sobject.upsert("Contact", "k1", "External_Key__c", {"LastName": "Bobby"})
        assert not done.created
        [found] = await rows(sf, "SELECT LastName, Account.Name FROM Contact WHERE Account.External_Key__c = 'A'")
        assert found["Account"]["Name"] == "Acme"
        [found] = await rows(sf, "SELECT COUNT(Id) n, MAX(LastName) FROM Contact")
        assert (found["n"], found["expr0"]) == (2, "Bobby")
        with pytest.raises(aiosalesforce.exceptions.SalesforceError):
            await sf.sobject.create("Contact", {"LastName": "x", "AccountId": ada})
        await sf.sobject.delete("Contact", ada)
        assert len(await rows(sf, "SELECT Id FROM Contact")) == 1
        assert (await sf.get_limits())["DailyApiRequests"]["Remaining"] > 0

    run(sim, work)


def test_composite_and_batch(sim):
    async def work(sf):
        async with sf.composite(all_or_none=True) as composite:
            acme = composite.sobject.create("Account", {"Name": "Acme"})
            ada = composite.sobject.create("Contact", {"LastName": "Ada", "AccountId": str(acme.reference.id)})
            found = composite.query("SELECT Name FROM Account")
        assert ada.id.startswith("003")
        assert found.records[0]["Name"] == "Acme"
        async with sf.composite.batch(halt_on_error=True) as batch:
            good = batch.sobject.create("Account", {"Name": "Bolt"})
            bad = batch.sobject.create("Account", {"Name": ""})
            late = batch.sobject.create("Account", {"Name": "Late"})
        assert [one.status_code for one in (good, bad, late)] == [201, 400, 412]
        assert len(await rows(sf, "SELECT Id FROM Account")) == 2

    run(sim, work)


def test_bulk(sim):
    async def work(sf):
        people = [{"External_Key__c": f"K{n}", "LastName": f"L{n}"} for n in range(300)]
        people[3]["LastName"] = ""
        done = await sf.bulk_v2.upsert("Contact", people, external_id_field="External_Key__c")
        assert [job.state for job in done.jobs] == ["JobComplete"]
        assert len(done.successful_results) == 299
        assert "REQUIRED_FIELD_MISSING" in done.failed_results[0]["sf__Error"]
        assert len(await rows(sf, "SELECT Id FROM Contact")) == 299

    run(sim, work)
