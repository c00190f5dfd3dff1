// The npm package `dynamics-web-api` against crm-sim. Run by dynamics365_js_test.py, which starts the simulator.

const test = require("node:test");
const assert = require("node:assert/strict");
const { DynamicsWebApi } = require("dynamics-web-api");

const { DYNAMICS: host, ADMIN: admin } = process.env;

const grant = async () => {
    const form = { grant_type: "client_credentials", client_id: "d365-client", client_secret: "d365-secret", scope: `${host}/.default` };
    const answer = await fetch(`${host}/d365-tenant/oauth2/v2.0/token`, { method: "POST", body: new URLSearchParams(form) });
    return (await answer.json()).access_token;
};

const client = (more) => new DynamicsWebApi({ serverUrl: host, onTokenRefresh: grant, ...more });

const control = async (path, body) => {
    const answer = await fetch(admin + path, { method: "POST", body: JSON.stringify(body ?? {}) });
    assert.ok(answer.ok, await answer.text());
};

const rows = async (object) => (await (await fetch(`${admin}/objects/dynamics365/${object}`)).json()).records;

test.beforeEach(() => control("/reset"));

test("who asks is told", async () => {
    const who = await client().callFunction("WhoAmI");
    assert.match(who.UserId, /^[0-9a-f-]{36}$/);
});

test("a row is made, read, changed and deleted", async () => {
    const api = client();
    const data = { lastname: "Byron", crm_score: 12.345, creditlimit: 1000, birthdate: "1815-12-10" };
    const made = await api.create({ collection: "contacts", data, returnRepresentation: true, select: ["lastname", "crm_score"] });
    assert.equal(made.crm_score, 12.35);
    const key = made.contactid;
    await api.update({ collection: "contacts", key, data: { firstname: "Ada", crm_score: null } });
    const held = await api.retrieve({ collection: "contacts", key, select: ["firstname", "crm_score"] });
    assert.deepEqual([held.firstname, held.crm_score], ["Ada", null]);
    await api.updateSingleProperty({ collection: "contacts", key, fieldValuePair: { jobtitle: "Countess" } });
    await api.deleteRecord({ collection: "contacts", key, property: "firstname" });
    const after = await api.retrieve({ collection: "contacts", key, select: ["firstname", "jobtitle"] });
    assert.deepEqual([after.firstname, after.jobtitle], [null, "Countess"]);
    await api.deleteRecord({ collection: "contacts", key });
    await assert.rejects(api.retrieve({ collection: "contacts", key }), (error) => error.status === 404 && error.code === "0x80040217");
});

test("conditions are heeded", async () => {
    const api = client();
    const key = await api.create({ collection: "contacts", data: { lastname: "x" } });
    const held = await api.retrieve({ collection: "contacts", key, select: ["lastname"] });
    const tag = held["@odata.etag"];
    const unchanged = await api.retrieve({ collection: "contacts", key, select: ["lastname"], ifnonematch: tag });
    assert.equal(unchanged ?? null, null);
    await api.update({ collection: "contacts", key, data: { lastname: "y" }, ifmatch: tag });
    assert.equal((await api.retrieve({ collection: "contacts", key, ifnonematch: tag })).lastname, "y");
    // The library answers a refused condition with false or null, so the row is looked at.
    await api.update({ collection: "contacts", key, data: { lastname: "z" }, ifmatch: tag });
    assert.equal((await rows("contacts"))[0].fields.lastname, "y");
    const upsert = (more) => api.upsert({ collection: "contacts", key: "crm_externalkey='K1'", data: { lastname: "K" }, ...more });
    await upsert({ ifmatch: "*" });
    assert.equal((await rows("contacts")).length, 1);
    await upsert({ ifnonematch: "*" });
    assert.equal((await rows("contacts")).length, 2);
    await upsert({ ifnonematch: "*", data: { lastname: "again" } });
    assert.equal((await rows("contacts"))[1].fields.lastname, "K");
});

test("a row may be made with an id of one's own", async () => {
    const api = client();
    const key = "11111111-2222-4333-8444-555555555555";
    await api.upsert({ collection: "contacts", key, data: { lastname: "Own" } });
    assert.equal((await api.retrieve({ collection: "contacts", key })).lastname, "Own");
    assert.equal((await rows("contacts"))[0].id, key);
});

test("rows are filtered, sorted, counted and paged", async () => {
    const api = client();
    const people = [["Ada", 3, "1815-12-10"], ["Bo", 1, null], ["Cy", 2, "1999-12-31"], ["O'Neil", null, null], ["adam", 5, null]];
    for (const [lastname, crm_score, birthdate] of people) {
        await api.create({ collection: "contacts", data: { lastname, crm_score, birthdate } });
    }
    const find = async (filter, more) => {
        const found = await api.retrieveMultiple({ collection: "contacts", select: ["lastname"], filter, orderBy: ["lastname"], ...more });
        return found.value.map((row) => row.lastname);
    };
    assert.deepEqual(await find("startswith(lastname,'ada')"), ["Ada", "adam"]);
    assert.deepEqual(await find("lastname eq 'O''Neil' or crm_score lt 2"), ["Bo", "O'Neil"]);
    assert.deepEqual(await find("birthdate ne null and not (birthdate ge 1900-01-01)"), ["Ada"]);
    assert.deepEqual(await find("crm_score ne 3"), ["adam", "Bo", "Cy", "O'Neil"]);
    assert.deepEqual(await find("crm_score gt 1", { orderBy: ["crm_score desc"], top: 2 }), ["adam", "Ada"]);
    const first = await api.retrieveMultiple({
        collection: "contacts", select: ["lastname"], filter: "crm_score ne null", orderBy: ["crm_score"], maxPageSize: 3, count: true,
    });
    assert.equal(first.oDataCount, 4);
    assert.deepEqual(first.value.map((row) => row.lastname), ["Bo", "Cy", "Ada"]);
    const second = await api.retrieveMultiple({ collection: "contacts", maxPageSize: 3 }, first.oDataNextLink);
    assert.deepEqual(second.value.map((row) => row.lastname), ["adam"]);
    assert.equal(await api.count({ collection: "contacts", filter: "contains(lastname,'a')" }), 2);
    const all = await api.retrieveAll({ collection: "contacts", select: ["lastname"], maxPageSize: 2 });
    assert.equal(all.value.length, 5);
    await assert.rejects(find("crm_score eq 'x'"), (error) => error.status === 400);
});

test("rows are linked, by id and by key", async () => {
    const api = client();
    const account = await api.create({ collection: "accounts", data: { name: "Acme", crm_externalkey: "A1" } });
    const data = { lastname: "x", "parentcustomerid_account@odata.bind": "accounts(crm_externalkey='A1')" };
    const key = await api.create({ collection: "contacts", data });
    const employer = async () => (await api.retrieve({ collection: "contacts", key }))._parentcustomerid_value;
    assert.equal(await employer(), account);
    const link = { collection: "contacts", primaryKey: key, navigationProperty: "parentcustomerid_account" };
    await api.disassociateSingleValued(link);
    assert.equal(await employer(), null);
    await api.associateSingleValued({ ...link, relatedCollection: "accounts", relatedKey: account });
    assert.equal(await employer(), account);
});

test("duplicates are found on request alone", async () => {
    const api = client();
    const data = { lastname: "x", emailaddress1: "a@x.test" };
    await api.create({ collection: "contacts", data });
    await api.create({ collection: "contacts", data });
    const again = api.create({ collection: "contacts", data: { ...data, emailaddress1: "A@x.test" }, duplicateDetection: true });
    await assert.rejects(again, (error) => error.status === 412 && error.code === "0x80040333");
    assert.equal((await rows("contacts")).length, 2);
});

test("a batch tells of each request", async () => {
    const api = client();
    const key = await api.create({ collection: "contacts", data: { lastname: "x" } });
    api.startBatch();
    api.retrieve({ collection: "contacts", key, select: ["lastname"] });
    api.create({ collection: "contacts", data: { lastname: "y" }, inChangeSet: false });
    api.update({ collection: "contacts", key, data: { lastname: "é" }, inChangeSet: false });
    const told = await api.executeBatch();
    assert.equal(told.length, 3);
    assert.equal(told[0].lastname, "x");
    assert.deepEqual((await rows("contacts")).map((row) => row.fields.lastname), ["é", "y"]);
});

test("a change set is applied as a whole or not at all", async () => {
    const api = client();
    api.startBatch();
    api.create({ collection: "accounts", data: { name: "Acme" }, contentId: "1" });
    api.create({ collection: "contacts", data: { lastname: "x", "parentcustomerid_account@odata.bind": "$1" } });
    const [account] = await api.executeBatch();
    const [contact] = await rows("contacts");
    assert.equal(contact.fields._parentcustomerid_value, account);
    api.startBatch();
    api.create({ collection: "accounts", data: { name: "Gone" } });
    api.create({ collection: "contacts", data: { lastname: "x".repeat(51) } });
    await assert.rejects(api.executeBatch());
    assert.deepEqual((await rows("accounts")).map((row) => row.fields.name), ["Acme"]);
});

test("changes are told by a delta link", async () => {
    const api = client();
    const key = await api.create({ collection: "contacts", data: { lastname: "x" } });
    const first = await api.retrieveMultiple({ collection: "contacts", select: ["lastname"], trackChanges: true });
    await api.deleteRecord({ collection: "contacts", key });
    const then = await api.retrieveMultiple({ collection: "contacts" }, first.oDataDeltaLink);
    assert.deepEqual(then.value.map((row) => row.reason), ["deleted"]);
});

test("a row comes with what it is linked to, and as people see it", async () => {
    const api = client();
    const data = { lastname: "x", leadsourcecode: 2, "parentcustomerid_account@odata.bind": "/accounts(crm_externalkey='A1')" };
    await api.create({ collection: "accounts", data: { name: "Acme", crm_externalkey: "A1" } });
    const key = await api.create({ collection: "contacts", data });
    const expand = [{ property: "parentcustomerid_account", select: ["name"] }];
    const held = await api.retrieve({ collection: "contacts", key, select: ["leadsourcecode"], expand, includeAnnotations: "*" });
    assert.equal(held.parentcustomerid_account.name, "Acme");
    assert.equal(held.leadsourcecode_Formatted, "Option 2");
});
