-- The extension is there, and its library is the one that the server loaded at its start.
SELECT extname, extversion FROM pg_extension WHERE extname = 'pg_crm';
SHOW shared_preload_libraries;
