-- The user as whom crmbridge reads FreePBX's call records, and does nothing else.
--
-- Run as the database's root:  mysql < cdr-reader.sql   , with a password put in ( openssl rand -hex 24 ).
-- Then in crmbridge's settings:  [cdr] source = "mysql+asyncmy://crmbridge:PASSWORD@127.0.0.1/asteriskcdrdb"
-- Check:  crmbridge check

-- From another host: its address in place of 127.0.0.1, and REQUIRE SSL.
CREATE USER IF NOT EXISTS 'crmbridge'@'127.0.0.1' IDENTIFIED BY 'REPLACE-ME' WITH MAX_USER_CONNECTIONS 5;
GRANT SELECT ON asteriskcdrdb.cdr TO 'crmbridge'@'127.0.0.1';
