-- Between :show and :hide, statements are printed before what they answer, as in a session; the rest runs unseen.
\set hide '\\set ECHO none \\set QUIET on'
\set show '\\set QUIET off \\set ECHO queries'
\set ECHO none
\pset footer off
\set SHOW_CONTEXT never
SET timezone = 'UTC';
