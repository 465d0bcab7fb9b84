BEGIN TRANSACTION;
CREATE TABLE clicks (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	pbx TEXT NOT NULL, 
	click_id TEXT NOT NULL, 
	at VARCHAR(27) NOT NULL, 
	address TEXT NOT NULL, 
	user TEXT NOT NULL, 
	client_id TEXT NOT NULL, 
	extension TEXT NOT NULL, 
	number TEXT NOT NULL, 
	dialed TEXT, 
	outcome TEXT NOT NULL, 
	code TEXT, 
	reason TEXT, 
	phone_state TEXT, 
	number_state TEXT, 
	cause INTEGER, 
	talk_s INTEGER, 
	changed_at VARCHAR(27) NOT NULL
);
INSERT INTO "clicks" VALUES(1,'pbx','crm-1','2026-11-23T08:00:00.000000Z','127.0.0.1','crm','10','777','0521111111','0521111111','talked',NULL,NULL,NULL,NULL,16,7,'2026-11-23T08:01:00.000000Z');
CREATE TABLE schema_versions (
	component VARCHAR(64) NOT NULL, 
	version INTEGER NOT NULL, 
	changed_at VARCHAR(27) NOT NULL, 
	PRIMARY KEY (component)
);
INSERT INTO "schema_versions" VALUES('clicks',1,'2026-11-23T20:39:23.498395Z');
CREATE INDEX clicks_click_id ON clicks (click_id);
CREATE INDEX clicks_at ON clicks (at);
CREATE INDEX clicks_outcome ON clicks (outcome, at);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('clicks',1);
COMMIT;
