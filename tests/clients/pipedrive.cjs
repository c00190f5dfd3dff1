// The npm package `pipedrive` against crm-sim. Run by pipedrive_test.py, which starts the simulator.

const test = require("node:test");
const assert = require("node:assert/strict");
const v1 = require("pipedrive/v1");
const v2 = require("pipedrive/v2");

const { PIPEDRIVE: host, ADMIN: admin } = process.env;
const KEY = "a000000000000000000000000000000000000001";
const BUDGET = "d000000000000000000000000000000000000002";

const of = (api, version, config = { apiKey: "pd-token" }) =>
    new api({ ...new version.Configuration(config), basePath: `${host}/api/${version === v1 ? "v1" : "v2"}` });

const control = async (path, body) => {
    const answer = await fetch(admin + path, { method: "POST", body: JSON.stringify(body ?? {}) });
    assert.ok(answer.ok, await answer.text());
};

test.beforeEach(() => control("/reset"));

test("a deal is made, changed, listed and deleted", async () => {
    const deals = of(v2.DealsApi, v2);
    const made = await deals.addDeal({
        AddDealRequest: { title: "Acme", value: 12.5, custom_fields: { [BUDGET]: { value: 5, currency: "EUR" } } },
    });
    assert.equal(made.success, true);
    assert.equal(made.data.status, "open");
    const id = made.data.id;
    const changed = await deals.updateDeal({ id, UpdateDealRequest: { status: "won", person_id: null } });
    assert.equal(changed.data.status, "won");
    const held = await deals.getDeal({ id, custom_fields: BUDGET });
    assert.deepEqual(held.data.custom_fields, { [BUDGET]: { value: 5, currency: "EUR" } });
    const since = new Date(Date.now() - 60_000).toISOString().replace(/\.\d+Z/, "Z");
    const list = await deals.getDeals({ updated_since: since, sort_by: "update_time", sort_direction: "asc" });
    assert.deepEqual(list.data.map((deal) => deal.id), [id]);
    await deals.deleteDeal({ id });
    assert.deepEqual((await deals.getDeals()).data, []);
    const gone = await deals.getDeals({ status: "deleted" });
    assert.equal(gone.data[0].is_deleted, true);
});

test("pages go on by their cursor", async () => {
    const persons = of(v2.PersonsApi, v2);
    for (let n = 0; n < 7; n++) {
        await persons.addPerson({ AddPersonRequest: { name: `p${n}`, emails: [{ value: `p${n}@x.test` }] } });
    }
    const seen = [];
    let cursor;
    do {
        const page = await persons.getPersons({ limit: 3, cursor });
        seen.push(...page.data.map((person) => person.id));
        cursor = page.additional_data.next_cursor;
    } while (cursor);
    assert.deepEqual(seen, [1, 2, 3, 4, 5, 6, 7]);
    const one = await persons.getPerson({ id: 1 });
    assert.deepEqual(one.data.emails, [{ value: "p0@x.test", primary: true, label: "work" }]);
});

test("a key is found by the field that holds it", async () => {
    const persons = of(v2.PersonsApi, v2);
    await persons.addPerson({ AddPersonRequest: { name: "Ada", custom_fields: { [KEY]: "K 1" } } });
    const search = of(v2.ItemSearchApi, v2);
    const find = (term) => search.searchItemByField({ term, entity_type: "person", field: KEY, match: "exact" });
    assert.equal((await find("K 1")).data[0].id, 1);
    assert.deepEqual((await find("k 1")).data, []);
});

test("a refusal says what is wrong", async () => {
    const deals = of(v2.DealsApi, v2);
    await assert.rejects(
        deals.addDeal({ AddDealRequest: { title: "x", [BUDGET]: 5 } }),
        (error) => error.success === false && error.code === "ERR_SCHEMA_VALIDATION_FAILED",
    );
    await assert.rejects(deals.getDeal({ id: 77 }), (error) => error.error === "Deal not found");
    const stranger = of(v2.DealsApi, v2, { apiKey: "nobody" });
    await assert.rejects(stranger.getDeals(), (error) => error.errorCode === 401);
});

test("what only the first version has", async () => {
    const persons = of(v2.PersonsApi, v2);
    await persons.addPerson({ AddPersonRequest: { name: "Ada" } });
    const leads = of(v1.LeadsApi, v1);
    const lead = await leads.addLead({ AddLeadRequest: { title: "Acme", person_id: 1, value: { amount: 5, currency: "EUR" } } });
    await leads.updateLead({ id: lead.data.id, UpdateLeadRequest: { title: "Acme 2" } });
    assert.equal((await leads.getLead({ id: lead.data.id })).data.title, "Acme 2");
    const notes = of(v1.NotesApi, v1);
    const note = await notes.addNote({ AddNoteRequest: { content: "x", person_id: 1 } });
    await notes.updateNote({ id: note.data.id, NoteRequest: { content: "y" } });
    assert.equal((await notes.getNote({ id: note.data.id })).data.content, "y");
    const me = await of(v1.UsersApi, v1).getCurrentUser();
    assert.equal(me.data.company_name, "Simulated Company");
    await persons.updatePerson({ id: 1, UpdatePersonRequest: { name: "Ada L." } });
    const log = await of(v1.PersonsApi, v1).getPersonChangelog({ id: 1 });
    assert.deepEqual([log.data[0].old_value, log.data[0].new_value], ["Ada", "Ada L."]);
    const recents = await of(v1.RecentsApi, v1).getRecents({ since_timestamp: "2026-01-01 00:00:00", items: "person" });
    assert.equal(recents.data[0].item, "person");
});

test("a refresh token is exchanged", async () => {
    const oauth = new v2.OAuth2Configuration({ clientId: "pd-client", clientSecret: "pd-secret", redirectUri: "https://x.test" });
    oauth.host = host;
    oauth.updateToken({ access_token: "old", refresh_token: "pd-refresh", expires_in: 1, scope: "", token_type: "bearer", api_domain: host });
    const granted = await oauth.tokenRefresh();
    const token = granted.access_token ?? granted.data.access_token;
    const deals = of(v2.DealsApi, v2, { accessToken: token });
    assert.deepEqual((await deals.getDeals()).data, []);
});

test("items are found by a term", async () => {
    const persons = of(v2.PersonsApi, v2);
    await persons.addPerson({ AddPersonRequest: { name: "Ada", emails: [{ value: "Ada@x.test" }] } });
    await persons.addPerson({ AddPersonRequest: { name: "Bo", custom_fields: { [KEY]: "ada" } } });
    await of(v2.DealsApi, v2).addDeal({ AddDealRequest: { title: "ada's", person_id: 1 } });
    const ids = (answer) => answer.data.items.map(({ item }) => `${item.type} ${item.id}`);
    assert.deepEqual(ids(await persons.searchPersons({ term: "ada", exact_match: true })), ["person 1", "person 2"]);
    assert.deepEqual(ids(await persons.searchPersons({ term: "ada@x.test", exact_match: true, fields: "email" })), ["person 1"]);
    const all = await of(v2.ItemSearchApi, v2).searchItem({ term: "ada", item_types: "deal" });
    assert.deepEqual(ids(all), ["deal 1"]);
    assert.equal(all.data.items[0].item.person.name, "Ada");
    const page = await persons.searchPersons({ term: "ada", limit: 1 });
    const next = await persons.searchPersons({ term: "ada", limit: 1, cursor: page.additional_data.next_cursor });
    assert.deepEqual([...ids(page), ...ids(next)], ["person 1", "person 2"]);
    await assert.rejects(persons.searchPersons({ term: "a" }), (error) => error.success === false);
});

test("a list is narrowed by a filter", async () => {
    const persons = of(v2.PersonsApi, v2);
    for (const name of ["Ada", "Bo", "Adam"]) {
        await persons.addPerson({ AddPersonRequest: { name } });
    }
    const fields = await of(v1.PersonFieldsApi, v1).getPersonFields({ limit: 500 });
    const { id } = fields.data.find((field) => field.key === "name");
    const line = { object: "person", field_id: String(id), operator: "LIKE '$%'", value: "ada", extra_value: null };
    const conditions = { glue: "and", conditions: [{ glue: "and", conditions: [line] }, { glue: "or", conditions: [] }] };
    const filters = of(v1.FiltersApi, v1);
    const made = await filters.addFilter({ AddFilterRequest: { name: "Adas", type: "people", conditions } });
    const filter_id = made.data.id;
    assert.deepEqual((await persons.getPersons({ filter_id })).data.map((person) => person.name), ["Ada", "Adam"]);
    assert.deepEqual((await filters.getFilter({ id: filter_id })).data.conditions, conditions);
    await filters.updateFilter({ id: filter_id, UpdateFilterRequest: { conditions: { ...conditions, conditions: [
        { glue: "and", conditions: [{ ...line, operator: "=" }] }, { glue: "or", conditions: [] },
    ] } } });
    assert.deepEqual((await persons.getPersons({ filter_id })).data.map((person) => person.name), ["Ada"]);
    await filters.deleteFilter({ id: filter_id });
    await assert.rejects(persons.getPersons({ filter_id }), (error) => error.success === false);
});

test("lists are narrowed by links, and numbers are doubles", async () => {
    const orgs = of(v2.OrganizationsApi, v2);
    const org_id = (await orgs.addOrganization({ AddOrganizationRequest: { name: "Acme" } })).data.id;
    const persons = of(v2.PersonsApi, v2);
    await persons.addPerson({ AddPersonRequest: { name: "Ada", org_id, label_ids: [2] } });
    await persons.addPerson({ AddPersonRequest: { name: "Bo" } });
    assert.deepEqual((await persons.getPersons({ org_id })).data.map((person) => person.label_ids), [[2]]);
    const deals = of(v2.DealsApi, v2);
    const deal = await deals.addDeal({ AddDealRequest: { title: "x", org_id, value: 0.1 + 0.2 } });
    assert.equal(deal.data.value, 0.30000000000000004);
    assert.deepEqual((await deals.getDeals({ org_id, status: "open" })).data.map(({ id }) => id), [deal.data.id]);
    const field = await of(v2.PersonFieldsApi, v2).getPersonField({ field_code: KEY });
    assert.equal(field.data.field_type, "varchar");
});
