// The npm package `@hubspot/api-client` against crm-sim. Run by javascript_test.py, which starts the simulator.

const test = require("node:test");
const assert = require("node:assert/strict");
const { Client, AssociationTypes } = require("@hubspot/api-client");

const { HUBSPOT: host, ADMIN: admin } = process.env;

const control = async (path, body) => {
    const answer = await fetch(admin + path, { method: "POST", body: JSON.stringify(body ?? {}) });
    assert.ok(answer.ok, await answer.text());
};

const connect = (accessToken = "hs-token") => new Client({ accessToken, basePath: host });

const refused = (code, part) => (error) => {
    assert.equal(error.code, code, error.message);
    assert.ok(error.message.includes(part), error.message);
    return true;
};

const spec = (associationTypeId, associationCategory = "HUBSPOT_DEFINED") => ({ associationTypeId, associationCategory });

test.beforeEach(() => control("/reset"));

test("records go by the name of their object and by its type id", async () => {
    const { crm } = connect();
    const made = await crm.contacts.basicApi.create({
        properties: { email: " Ada@Example.test ", score: "007.50", interests: "data;data" }, associations: [],
    });
    assert.deepEqual(
        [made.properties.email, made.properties.score, made.properties.interests],
        ["ada@example.test", "7.50", "data"],
    );
    await crm.objects.basicApi.update("0-1", made.id, { properties: { interests: ";cloud" } });
    const held = await crm.objects.basicApi.getById("contacts", "ada@example.test", ["interests"], ["interests"], undefined, false, "email");
    assert.equal(held.properties.interests, "data;cloud");
    assert.deepEqual(held.propertiesWithHistory.interests.map((past) => past.value), ["data;cloud", "data"]);
    await assert.rejects(
        crm.contacts.basicApi.create({ properties: { lifecyclestage: "Lead" }, associations: [] }),
        refused(400, "INVALID_OPTION"),
    );
    await crm.contacts.basicApi.archive(made.id);
    await assert.rejects(crm.contacts.basicApi.getById(made.id), refused(404, "OBJECT_NOT_FOUND"));
    const fields = [{ name: "plate", type: "string", unique: true }];
    await control("/schema/hubspot/cars", { label: "Car", code: "2-777", fields });
    const car = await crm.objects.basicApi.create("2-777", { properties: { plate: "A 1" }, associations: [] });
    assert.equal((await crm.objects.basicApi.getById("cars", car.id, ["plate"])).properties.plate, "A 1");
    assert.deepEqual((await crm.schemas.coreApi.getAll()).results.map((one) => one.objectTypeId), ["2-777"]);
});

test("batches fail in part or as a whole", async () => {
    const { crm } = connect();
    const inputs = Array.from({ length: 100 }, (_, n) => ({ properties: { external_key: `K${n}` }, associations: [] }));
    const made = await crm.contacts.batchApi.create({ inputs });
    assert.equal(made.results.length, 100);
    await assert.rejects(crm.contacts.batchApi.create({ inputs: [...inputs, inputs[0]] }), refused(400, "limit of 100"));
    const upserts = ["K1", "new"].map((id) => ({ id, idProperty: "external_key", properties: { city: "Oslo" } }));
    const done = await crm.contacts.batchApi.upsert({ inputs: upserts });
    assert.deepEqual(done.results.map((one) => one._new).sort(), [false, true]);
    const read = await crm.contacts.batchApi.read({
        inputs: [{ id: made.results[0].id }, { id: "1" }], properties: ["city"], propertiesWithHistory: [],
    });
    assert.deepEqual([read.results.length, read.numErrors, read.errors[0].category], [1, 1, "OBJECT_NOT_FOUND"]);
    await crm.contacts.batchApi.archive({ inputs: made.results.map(({ id }) => ({ id })) });
    const page = await crm.contacts.basicApi.getPage(10, undefined, ["external_key"]);
    assert.deepEqual(page.results.map((one) => one.properties.external_key), ["new"]);
});

test("search knows every operator", async () => {
    const { crm } = connect();
    const inputs = ["Ada King", "Bob Stone", "Cyd"].map((lastname, n) => ({
        properties: { lastname, score: n ? `${n}` : "" }, associations: [],
    }));
    await crm.contacts.batchApi.create({ inputs });
    const find = async (...filters) => {
        const found = await crm.contacts.searchApi.doSearch({
            filterGroups: [{ filters }], sorts: ["lastname"], properties: ["lastname"], limit: 10, after: "0",
        });
        return found.results.map((one) => one.properties.lastname[0]).join("");
    };
    const of = (propertyName, operator, rest) => ({ propertyName, operator, ...rest });
    assert.equal(await find(of("score", "HAS_PROPERTY")), "BC");
    assert.equal(await find(of("score", "NOT_HAS_PROPERTY")), "A");
    assert.equal(await find(of("score", "BETWEEN", { value: "1", highValue: "1.5" })), "B");
    assert.equal(await find(of("lastname", "IN", { values: ["cyd", "ada king"] })), "AC");
    assert.equal(await find(of("lastname", "NOT_IN", { values: ["cyd"] })), "AB");
    assert.equal(await find(of("lastname", "CONTAINS_TOKEN", { value: "stone" })), "B");
    assert.equal(await find(of("lastname", "NOT_CONTAINS_TOKEN", { value: "stone" })), "AC");
    assert.equal(await find(of("score", "GT", { value: "1" }), of("score", "LTE", { value: "2" })), "C");
    assert.equal(await find(of("score", "NEQ", { value: "1" })), "C");
});

test("records are associated when they are made and later", async () => {
    const { crm } = connect();
    const firms = [];
    for (const name of ["Acme", "Bolt"]) {
        firms.push(await crm.companies.basicApi.create({ properties: { name }, associations: [] }));
    }
    const ada = await crm.contacts.basicApi.create({
        properties: { lastname: "Ada" },
        associations: [{ to: { id: firms[0].id }, types: [spec(AssociationTypes.contactToCompany)] }],
    });
    const links = async () => {
        const page = await crm.associations.v4.basicApi.getPage("contacts", ada.id, "companies");
        return page.results.map((one) => [`${one.toObjectId}`, one.associationTypes.map((type) => type.typeId)]);
    };
    assert.deepEqual(await links(), [[firms[0].id, [279]]]);
    await crm.associations.v4.basicApi.create("contacts", ada.id, "companies", firms[1].id, [spec(AssociationTypes.primaryContactToCompany)]);
    assert.deepEqual(await links(), [[firms[0].id, [279]], [firms[1].id, [1, 279]]]);
    const held = await crm.contacts.basicApi.getById(ada.id, undefined, undefined, ["companies"]);
    assert.equal(held.associations.companies.results.length, 3);
    const read = await crm.associations.v4.batchApi.getPage("0-2", "0-1", { inputs: firms.map(({ id }) => ({ id })) });
    assert.deepEqual(read.results.map((one) => `${one.to[0].toObjectId}`), [ada.id, ada.id]);
    const label = await crm.associations.v4.schema.definitionsApi.create("contacts", "companies", { label: "Billing", name: "billing" });
    const billing = label.results[0].typeId;
    const inputs = [{ _from: { id: ada.id }, to: { id: firms[0].id }, types: [spec(billing, "USER_DEFINED")] }];
    const made = await crm.associations.v4.batchApi.create("contacts", "companies", { inputs });
    assert.deepEqual(made.results[0].labels, ["Billing"]);
    await crm.associations.v4.batchApi.archiveLabels("contacts", "companies", { inputs });
    await crm.associations.v4.basicApi.archive("contacts", ada.id, "companies", firms[1].id);
    assert.deepEqual(await links(), [[firms[0].id, [279]]]);
    await assert.rejects(
        crm.contacts.basicApi.create({ properties: {}, associations: [{ to: { id: firms[0].id }, types: [spec(341)] }] }),
        refused(400, "341"),
    );
    const deal = await crm.deals.basicApi.create({ properties: { dealname: "D" }, associations: [] });
    await crm.associations.v4.batchApi.createDefault("deals", "contacts", { inputs: [{ _from: { id: deal.id }, to: { id: ada.id } }] });
    const back = await crm.associations.v4.basicApi.getPage("contacts", ada.id, "deals");
    assert.equal(`${back.results[0].toObjectId}`, deal.id);
});

test("records are merged and erased", async () => {
    const { crm } = connect();
    const [ada, bob] = await Promise.all(
        ["Ada", "Bob"].map((lastname) => crm.contacts.basicApi.create({ properties: { lastname }, associations: [] })),
    );
    const one = await crm.contacts.basicApi.merge({ primaryObjectId: ada.id, objectIdToMerge: bob.id });
    assert.equal(one.id, ada.id);
    assert.equal((await crm.contacts.basicApi.getById(bob.id)).id, ada.id);
    await crm.contacts.basicApi.purge({ objectId: ada.id });
    for (const archived of [false, true]) {
        const read = crm.contacts.basicApi.getById(ada.id, undefined, undefined, undefined, archived);
        await assert.rejects(read, refused(404, "OBJECT_NOT_FOUND"));
    }
});

test("properties, groups, pipelines and owners", async () => {
    const { crm } = connect();
    const property = { name: "tier", label: "Tier", type: "string", fieldType: "text", groupName: "billing" };
    await assert.rejects(crm.properties.coreApi.create("contacts", property), refused(400, "billing"));
    await crm.properties.groupsApi.create("contacts", { name: "billing", label: "Billing" });
    await crm.properties.coreApi.create("contacts", property);
    assert.equal((await crm.properties.coreApi.getByName("contacts", "tier")).groupName, "billing");
    assert.equal((await crm.properties.groupsApi.getAll("contacts")).results.length, 2);
    await crm.properties.coreApi.archive("contacts", "tier");
    const pipelines = await crm.pipelines.pipelinesApi.getAll("deals");
    assert.equal(pipelines.results[0].stages.length, 7);
    assert.equal((await crm.pipelines.pipelineStagesApi.getById("deals", "default", "closedwon")).metadata.isClosed, "true");
    const owners = await crm.owners.ownersApi.getPage();
    assert.equal(owners.results[0].email, "ada@portal.example");
});

test("a refresh token is exchanged", async () => {
    await control("/tokens", { vendor: "hubspot", expire: "all" });
    await assert.rejects(connect().crm.contacts.basicApi.getPage(), refused(401, "EXPIRED_AUTHENTICATION"));
    const granted = await connect().oauth.tokensApi.create(
        "refresh_token", undefined, undefined, "hs-client", "hs-secret", "hs-refresh",
    );
    assert.deepEqual((await connect(granted.accessToken).crm.contacts.basicApi.getPage()).results, []);
});
