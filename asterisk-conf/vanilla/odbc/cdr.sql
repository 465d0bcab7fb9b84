-- The CDR table for cdr_adaptive_odbc, and its two users: Asterisk, who writes, and crmbridge, who reads.
--
-- Run as the database's root:  mariadb < cdr.sql   , with both passwords put in ( openssl rand -hex 24 ).
-- Has a table already? Then only the last two statements, with its database and name.

CREATE DATABASE IF NOT EXISTS asteriskcdrdb CHARACTER SET utf8mb4;

-- cdr_adaptive_odbc writes what columns it finds, under the CDR's own names, so this is FreePBX's table but for what only
-- FreePBX uses. `calldate` is `start` (an alias in cdr_adaptive_odbc.conf).
CREATE TABLE IF NOT EXISTS asteriskcdrdb.cdr (
  calldate datetime NOT NULL,
  clid varchar(80) NOT NULL DEFAULT '',
  src varchar(80) NOT NULL DEFAULT '',
  dst varchar(80) NOT NULL DEFAULT '',
  dcontext varchar(80) NOT NULL DEFAULT '',
  channel varchar(80) NOT NULL DEFAULT '',
  dstchannel varchar(80) NOT NULL DEFAULT '',
  lastapp varchar(80) NOT NULL DEFAULT '',
  lastdata varchar(80) NOT NULL DEFAULT '',
  duration int NOT NULL DEFAULT 0,
  billsec int NOT NULL DEFAULT 0,
  disposition varchar(45) NOT NULL DEFAULT '',
  amaflags int NOT NULL DEFAULT 0,
  accountcode varchar(20) NOT NULL DEFAULT '',
  uniqueid varchar(150) NOT NULL DEFAULT '',
  userfield varchar(255) NOT NULL DEFAULT '',
  did varchar(50) NOT NULL DEFAULT '',
  recordingfile varchar(255) NOT NULL DEFAULT '',
  -- joins the records of one call
  linkedid varchar(150) NOT NULL DEFAULT '',
  peeraccount varchar(80) NOT NULL DEFAULT '',
  -- tells records apart where all else is equal
  sequence int NOT NULL DEFAULT 0,
  -- crmbridge reads by time and by nothing else; without this index each look would read the whole table
  KEY calldate (calldate),
  KEY uniqueid (uniqueid)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

-- Asterisk adds records, and does nothing else. (SELECT: the ODBC driver asks for the table's columns.)
CREATE USER IF NOT EXISTS 'asterisk'@'127.0.0.1' IDENTIFIED BY 'REPLACE-ME';
GRANT SELECT, INSERT ON asteriskcdrdb.cdr TO 'asterisk'@'127.0.0.1';

-- crmbridge reads this one table. From another host: its address in place of 127.0.0.1, and REQUIRE SSL.
CREATE USER IF NOT EXISTS 'crmbridge'@'127.0.0.1' IDENTIFIED BY 'REPLACE-ME-TOO' WITH MAX_USER_CONNECTIONS 5;
GRANT SELECT ON asteriskcdrdb.cdr TO 'crmbridge'@'127.0.0.1';
