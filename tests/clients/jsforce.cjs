// The npm package `jsforce` against crm-sim. Run by javascript_test.py, which starts the simulator.

const test = require("node:test");
const assert = require("node:assert/strict");
const jsforce = require("jsforce");

const { SALESFORCE: host, ADMIN: admin } = process.env;

const control = async (path, body) => {
    const answer = await fetch(admin + path, { method: "POST", body: JSON.stringify(body ?? {}) });
    assert.ok(answer.ok, await answer.text());
};

const connect = (options) =>
    new jsforce.Connection({ instanceUrl: host, accessToken: "sf-token", version: "66.0", maxRequest: 50, ...options });

const refused = (code) => (error) => error.errorCode === code || assert.fail(`${error.errorCode}: ${error.message}`);

test.beforeEach(() => control("/reset"));

test("records are made, read, changed, upserted and deleted", async () => {
    const contacts = connect().sobject("Contact");
    const made = await contacts.create({ LastName: " Ada ", Score__c: 12.345, LeadSource: "wEb", Title: "" });
    assert.equal(made.success, true);
    assert.equal(made.id.length, 18);
    await contacts.update({ Id: made.id, Title: "Countess" });
    const held = await contacts.retrieve(made.id.slice(0, 15));
    assert.deepEqual(
        [held.Id, held.LastName, held.Score__c, held.LeadSource, held.Title],
        [made.id, "Ada", 12.35, "Web", "Countess"],
    );
    assert.equal((await contacts.upsert({ External_Key__c: "K 1", LastName: "One" }, "External_Key__c")).created, true);
    assert.equal((await contacts.upsert({ External_Key__c: "k 1", LastName: "Two" }, "External_Key__c")).created, false);
    await assert.rejects(contacts.create({ LastName: "x", Score__c: 1e17 }), refused("NUMBER_OUTSIDE_VALID_RANGE"));
    await contacts.destroy(made.id);
    await assert.rejects(contacts.retrieve(made.id), refused("ENTITY_IS_DELETED"));
    const window = [new Date(Date.now() - 60_000).toISOString(), new Date(Date.now() + 60_000).toISOString()];
    assert.equal((await contacts.deleted(...window)).deletedRecords[0].id, made.id);
    assert.equal((await contacts.updated(...window)).ids.length, 1);
});

test("many records go in collections", async () => {
    const connection = connect();
    const people = Array.from({ length: 250 }, (_, n) => ({ External_Key__c: `K${n}`, LastName: `L${n}` }));
    people[7].LastName = "";
    const made = await connection.sobject("Contact").upsert(people, "External_Key__c", { allowRecursive: true });
    assert.equal(made.filter((one) => one.success).length, 249);
    assert.equal(made[7].errors[0].statusCode, "REQUIRED_FIELD_MISSING");
    const ids = made.filter((one) => one.success).map((one) => one.id);
    const held = await connection.sobject("Contact").retrieve(ids.slice(0, 3), { fields: ["LastName"] });
    assert.deepEqual(held.map((one) => one.LastName), ["L0", "L1", "L2"]);
    const gone = await connection.sobject("Contact").destroy(ids, { allowRecursive: true });
    assert.ok(gone.every((one) => one.success));
    assert.equal(await connection.sobject("Contact").count(), 0);
});

test("queries follow relationships, page and aggregate", async () => {
    const connection = connect();
    const acme = await connection.sobject("Account").create({ Name: "Acme", External_Key__c: "A" });
    const people = ["Ada", "Bob", "Cyd"].map((LastName, n) => ({
        LastName, Score__c: n, Account: { External_Key__c: "A" },
    }));
    await connection.sobject("Contact").create(people);
    const found = await connection
        .sobject("Contact")
        .find({ "Account.Name": "Acme", Score__c: { $gte: 1 } }, "LastName, Account.Name")
        .sort("-LastName")
        .execute();
    assert.deepEqual(found.map((one) => [one.LastName, one.Account.Name]), [["Cyd", "Acme"], ["Bob", "Acme"]]);
    const parents = await connection
        .sobject("Account")
        .find({ Id: acme.id }, "Name")
        .include("Contacts")
        .select("LastName")
        .sort("LastName")
        .limit(2)
        .end()
        .execute();
    assert.deepEqual(parents[0].Contacts.records.map((one) => one.LastName), ["Ada", "Bob"]);
    const sums = await connection.query(
        "SELECT Account.Name firm, COUNT(Id) people, SUM(Score__c) FROM Contact GROUP BY Account.Name",
    );
    assert.deepEqual(
        [sums.records[0].firm, sums.records[0].people, sums.records[0].expr0, sums.totalSize],
        ["Acme", 3, 3, 1],
    );
    const many = Array.from({ length: 450 }, (_, n) => ({ LastName: `L${n}` }));
    await connection.sobject("Contact").create(many, { allowRecursive: true });
    const all = [];
    const query = connection.query("SELECT Id FROM Contact", { headers: { "Sforce-Query-Options": "batchSize=200" } });
    await query.on("record", (record) => all.push(record.Id)).run({ autoFetch: true, maxFetch: 1000 });
    assert.equal(new Set(all).size, 453);
    await assert.rejects(connection.query("SELECT Nope.Name FROM Contact"), refused("INVALID_FIELD"));
});

test("several requests go in one", async () => {
    const connection = connect();
    const base = "/services/data/v66.0/sobjects";
    const family = (name) => [
        { method: "POST", url: `${base}/Account`, referenceId: "firm", body: { Name: "Acme" } },
        { method: "POST", url: `${base}/Contact`, referenceId: "one", body: { LastName: name, AccountId: "@{firm.id}" } },
    ];
    const composite = await connection.requestPost("/composite", { allOrNone: true, compositeRequest: family("Ada") });
    assert.deepEqual(composite.compositeResponse.map((one) => one.httpStatusCode), [201, 201]);
    const graphs = await connection.requestPost("/composite/graph", {
        graphs: [{ graphId: "1", compositeRequest: family("") }, { graphId: "2", compositeRequest: family("Bob") }],
    });
    assert.deepEqual(graphs.graphs.map((one) => one.isSuccessful), [false, true]);
    const tree = await connection.requestPost("/composite/tree/Account", {
        records: [{
            attributes: { type: "Account", referenceId: "a" }, Name: "Bolt",
            Contacts: { records: [{ attributes: { type: "Contact", referenceId: "c" }, LastName: "Cyd" }] },
        }],
    });
    assert.deepEqual([tree.hasErrors, tree.results.length], [false, 2]);
    assert.equal((await connection.query("SELECT COUNT() FROM Contact WHERE Account.Name != null")).totalSize, 3);
});

test("definitions are sent once", async () => {
    const connection = connect();
    const described = await connection.sobject("Contact").describe();
    const field = described.fields.find((one) => one.name === "AccountId");
    assert.deepEqual([field.relationshipName, field.referenceTo], ["Account", ["Account"]]);
    assert.ok((await connection.describeGlobal()).sobjects.some((one) => one.name === "Contact"));
    const since = { "If-Modified-Since": new Date().toUTCString() };
    // A 304 has no body; jsforce hands out none.
    const request = { method: "GET", url: "/sobjects/Contact/describe", headers: since };
    assert.ok(!(await connection.request(request)));
    const tier = { fields: [{ name: "Tier__c", type: "string" }] };
    await control("/clock", { skew_s: 5 });
    await control("/schema/salesforce/Contact", tier);
    assert.ok((await connection.request(request)).fields.some((one) => one.name === "Tier__c"));
    const me = await connection.identity();
    assert.match(me.user_id, /^005/);
    assert.ok((await connection.limits()).DailyApiRequests.Remaining > 0);
});

test("a duplicate is saved by those who insist", async () => {
    await control("/schema/salesforce/Contact", { duplicates: { fields: ["Email"] } });
    const contacts = connect().sobject("Contact");
    const ada = { LastName: "Ada", Email: "ada@x.test" };
    await contacts.create(ada, { headers: { "Sforce-Auto-Assign": "FALSE" } });
    await assert.rejects(contacts.create(ada), refused("DUPLICATES_DETECTED"));
    const headers = { "Sforce-Duplicate-Rule-Header": "allowSave=true" };
    assert.equal((await contacts.create(ada, { headers })).success, true);
});

test("jobs load and query", async () => {
    const { bulk2 } = connect();
    const input = Array.from({ length: 300 }, (_, n) => ({ External_Key__c: `K${n}`, LastName: `L${n}`, Score__c: `${n}.125` }));
    input[5].Score__c = "five";
    const done = await bulk2.loadAndWaitForResults({
        object: "Contact", operation: "upsert", externalIdFieldName: "External_Key__c", input, pollInterval: 20,
    });
    assert.deepEqual([done.successfulResults.length, done.failedResults.length], [299, 1]);
    assert.match(done.failedResults[0].sf__Error, /INVALID_TYPE_ON_FIELD_IN_RECORD/);
    const stream = await bulk2.query("SELECT LastName, Score__c, Account.Name FROM Contact WHERE Score__c < 3", { pollInterval: 20 });
    const rows = await stream.toArray();
    assert.deepEqual(rows.map((row) => row.Score__c).sort(), ["0.13", "1.13", "2.13"]);
});

test("an expired token is refreshed", async () => {
    const oauth2 = { loginUrl: host, clientId: "sf-client", clientSecret: "sf-secret", redirectUri: "https://x.test" };
    const connection = connect({ oauth2, refreshToken: "sf-refresh" });
    await connection.sobject("Account").create({ Name: "Before" });
    await control("/tokens", { vendor: "salesforce", expire: "all" });
    await connection.sobject("Account").create({ Name: "After" });
    assert.equal(await connection.sobject("Account").count(), 2);
});
