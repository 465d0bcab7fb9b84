BEGIN TRANSACTION;
CREATE TABLE calls (
	id INTEGER NOT NULL, 
	pbx VARCHAR(64) NOT NULL, 
	linkedid VARCHAR(150) NOT NULL, 
	extension VARCHAR(150) NOT NULL, 
	number VARCHAR(64) NOT NULL, 
	number_key VARCHAR(64) NOT NULL, 
	started_at VARCHAR(27) NOT NULL, 
	talk_s INTEGER NOT NULL, 
	filename VARCHAR(255) NOT NULL, 
	incoming BOOLEAN NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "calls" VALUES(1,'pbx','1.1','777','033004799','972033004799','2026-11-23T08:00:00.000000Z',7,'',1);
CREATE TABLE cdrs (
	pbx VARCHAR(64) NOT NULL, 
	linkedid VARCHAR(150) NOT NULL, 
	uniqueid VARCHAR(150) NOT NULL, 
	sequence BIGINT NOT NULL, 
	dstchannel VARCHAR(150) NOT NULL, 
	channel VARCHAR(150) NOT NULL, 
	src VARCHAR(150) NOT NULL, 
	dst VARCHAR(150) NOT NULL, 
	did VARCHAR(150) NOT NULL, 
	start_at VARCHAR(27) NOT NULL, 
	answer_at VARCHAR(27), 
	end_at VARCHAR(27), 
	billsec_s INTEGER NOT NULL, 
	disposition VARCHAR(150) NOT NULL, 
	recordingfile VARCHAR(255) NOT NULL, 
	PRIMARY KEY (pbx, linkedid, uniqueid, sequence, dstchannel)
);
INSERT INTO "cdrs" VALUES('pbx','1.1','1.1',1,'PJSIP/777-1','PJSIP/trunk-1','033004799','777','','2026-11-23T08:00:00.000000Z','2026-11-23T08:00:02.000000Z','2026-11-23T08:00:09.000000Z',7,'ANSWERED','');
CREATE TABLE schema_versions (
	component VARCHAR(64) NOT NULL, 
	version INTEGER NOT NULL, 
	changed_at VARCHAR(27) NOT NULL, 
	PRIMARY KEY (component)
);
INSERT INTO "schema_versions" VALUES('call_list',1,'2026-11-23T20:38:20.204487Z');
CREATE INDEX calls_by_number ON calls (number_key, started_at, id);
CREATE INDEX calls_by_call ON calls (pbx, linkedid);
COMMIT;
