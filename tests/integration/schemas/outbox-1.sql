BEGIN TRANSACTION;
CREATE TABLE attempts (
	id INTEGER NOT NULL, 
	callback_id INTEGER NOT NULL, 
	at VARCHAR(27) NOT NULL, 
	duration_s FLOAT NOT NULL, 
	status INTEGER, 
	outcome TEXT NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(callback_id) REFERENCES callbacks (id) ON DELETE CASCADE
);
INSERT INTO "attempts" VALUES(1,1,'2026-11-23T08:00:00.000000Z',0.1,200,'HTTP 200: {"success":true}');
INSERT INTO "attempts" VALUES(2,2,'2026-11-23T08:00:00.000000Z',0.1,200,'HTTP 200: {"success":false}');
INSERT INTO "attempts" VALUES(3,3,'2026-11-23T08:00:00.000000Z',0.1,500,'HTTP 500');
CREATE TABLE callbacks (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	pbx TEXT NOT NULL, 
	call TEXT NOT NULL, 
	extension TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	number TEXT NOT NULL, 
	client_id TEXT NOT NULL, 
	at VARCHAR(27) NOT NULL, 
	linkedid TEXT NOT NULL, 
	uniqueid TEXT NOT NULL, 
	state TEXT NOT NULL, 
	attempts INTEGER NOT NULL, 
	next_attempt_at VARCHAR(27), 
	requeued_at VARCHAR(27), 
	dropped_at VARCHAR(27)
);
INSERT INTO "callbacks" VALUES(1,'pbx','1795413177.1','777','incomingCall','033004799','10','2026-11-23T08:01:00.000000Z','1795413177.1','1795413177.2','confirmed',1,NULL,NULL,NULL);
INSERT INTO "callbacks" VALUES(2,'pbx','1795413177.1','777','incomingCallAnswered','033004799','10','2026-11-23T08:01:00.000000Z','1795413177.1','1795413177.2','queued',0,NULL,'2026-11-23T09:00:00.000000Z',NULL);
INSERT INTO "callbacks" VALUES(3,'pbx','1795413177.3','777','incomingCall','033004799','10','2026-11-23T08:03:00.000000Z','1795413177.3','1795413177.4','queued',1,'2026-11-23T08:00:02.000000Z',NULL,NULL);
INSERT INTO "callbacks" VALUES(4,'pbx','1795413177.5','778','incomingCall','033004799','10','2026-11-23T08:05:00.000000Z','1795413177.5','1795413177.6','expired',0,NULL,NULL,'2026-11-23T09:00:00.000000Z');
CREATE TABLE interventions (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	at VARCHAR(27) NOT NULL, 
	callback_id INTEGER NOT NULL, 
	what TEXT NOT NULL
);
INSERT INTO "interventions" VALUES(1,'2026-11-23T09:00:00.000000Z',2,'retry');
INSERT INTO "interventions" VALUES(2,'2026-11-23T09:00:00.000000Z',4,'drop');
CREATE TABLE schema_versions (
	component VARCHAR(64) NOT NULL, 
	version INTEGER NOT NULL, 
	changed_at VARCHAR(27) NOT NULL, 
	PRIMARY KEY (component)
);
INSERT INTO "schema_versions" VALUES('outbox',1,'2026-11-23T20:38:20.102074Z');
CREATE INDEX callbacks_linkedid ON callbacks (linkedid);
CREATE UNIQUE INDEX callbacks_key ON callbacks (pbx, call, extension, kind);
CREATE INDEX callbacks_state ON callbacks (state, at);
CREATE INDEX ix_attempts_callback_id ON attempts (callback_id);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('callbacks',4);
INSERT INTO "sqlite_sequence" VALUES('interventions',2);
COMMIT;
