-- What both CRMs hold, as parts/look.sql has seen it, in the columns of the table `customers`.
:hide
CREATE TEMP VIEW maps AS SELECT map_id, provider AS crm FROM crm.status WHERE connection IN ('sales', 'marketing');
CREATE TEMP TABLE seen (crm text, crm_id text, version int, fields jsonb);
CREATE TEMP VIEW held AS
SELECT m.crm, m.map_id, s.crm_id, s.version, x."External_Key__c" AS customer_id, x."Name" AS company_name,
       x."Contact_Name__c" AS contact_name, x."BillingCity" AS city, x."BillingCountry" AS country, x."Phone" AS phone,
       x."Credit_Limit__c" AS credit_limit, x."Since__c" AS customer_since, x."Tier__c" AS tier
FROM maps m JOIN seen s USING (crm),
     jsonb_to_record(s.fields) AS x ("External_Key__c" text, "Name" text, "Contact_Name__c" text, "BillingCity" text,
         "BillingCountry" text, "Phone" text, "Credit_Limit__c" numeric, "Since__c" date, "Tier__c" text)
WHERE m.crm = 'salesforce'
UNION ALL
SELECT m.crm, m.map_id, s.crm_id, s.version, x.external_key, x.name, x.contact_name, x.city, x.country, x.phone,
       x.credit_limit, x.customer_since, x.tier
FROM maps m JOIN seen s USING (crm),
     jsonb_to_record(s.fields) AS x (external_key text, name text, contact_name text, city text, country text, phone text,
                                     credit_limit numeric, customer_since date, tier text)
WHERE m.crm = 'hubspot';
