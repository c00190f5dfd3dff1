-- The extension is there, and its library is the one that the server loaded at its start.
SELECT extname, extversion FROM pg_extension WHERE extname = 'pg_crm';
SHOW shared_preload_libraries;
-- Every function and view that a user may use, every table, and every column of a view has a comment.
SELECT p.oid::regprocedure AS function_without_comment
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname IN ('crm', 'crm_internal', 'crm_stub') AND obj_description(p.oid, 'pg_proc') IS NULL ORDER BY 1;
SELECT c.oid::regclass AS relation_without_comment
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname IN ('crm', 'crm_stub') AND c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition
  AND obj_description(c.oid, 'pg_class') IS NULL ORDER BY 1;
SELECT c.oid::regclass AS view, a.attname AS column_without_comment
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
WHERE n.nspname IN ('crm', 'crm_stub') AND c.relkind = 'v' AND a.attnum > 0
  AND col_description(c.oid, a.attnum) IS NULL ORDER BY 1, a.attnum;
-- Users see no more functions than they may use; the others are in crm_internal.
SELECT p.proname AS granted_to_nobody
FROM pg_proc p WHERE p.pronamespace = 'crm'::regnamespace AND p.proname <> 'grant_access'
  AND NOT EXISTS (SELECT FROM crm.access a WHERE (a.kind, a.schema, a.name) = ('function', 'crm', p.proname)) ORDER BY 1;
