BEGIN TRANSACTION;
CREATE TABLE calls (
	number_id BIGINT NOT NULL, 
	epoch_s BIGINT NOT NULL, 
	id BIGINT NOT NULL, 
	pbx VARCHAR(64) NOT NULL, 
	linkedid VARCHAR(150) NOT NULL, 
	client_id VARCHAR(150) NOT NULL, 
	extension VARCHAR(150) NOT NULL, 
	time VARCHAR(19) NOT NULL, 
	talk_s INTEGER NOT NULL, 
	filename VARCHAR(255) NOT NULL, 
	incoming BOOLEAN NOT NULL, 
	PRIMARY KEY (number_id, epoch_s, id)
)
 WITHOUT ROWID

;
INSERT INTO "calls" VALUES(5586361529197521752,1795420800,8318626660975137647,'pbx','1.1','10','777','2026-11-23 10:00:00',7,'',1);
CREATE TABLE cdrs (
	pbx VARCHAR(64) NOT NULL, 
	linkedid VARCHAR(150) NOT NULL, 
	uniqueid VARCHAR(150) NOT NULL, 
	sequence BIGINT NOT NULL, 
	channel VARCHAR(150) NOT NULL, 
	dstchannel VARCHAR(150) NOT NULL, 
	src VARCHAR(150) NOT NULL, 
	dst VARCHAR(150) NOT NULL, 
	did VARCHAR(150) NOT NULL, 
	start_epoch_s BIGINT NOT NULL, 
	duration_s INTEGER NOT NULL, 
	billsec_s INTEGER NOT NULL, 
	disposition VARCHAR(150) NOT NULL, 
	recordingfile VARCHAR(255) NOT NULL, 
	PRIMARY KEY (pbx, linkedid, uniqueid, sequence, dstchannel)
)
 WITHOUT ROWID

;
INSERT INTO "cdrs" VALUES('pbx','1.1','1.1',1,'PJSIP/trunk-1','PJSIP/777-1','033004799','0723456777','',1795420800,9,7,'ANSWERED','');
CREATE TABLE numbers (
	id BIGINT NOT NULL, 
	number VARCHAR(64) NOT NULL, 
	number_key VARCHAR(64) NOT NULL, 
	PRIMARY KEY (id)
)
 WITHOUT ROWID

;
INSERT INTO "numbers" VALUES(5586361529197521752,'033004799','972033004799');
CREATE TABLE progress (
	pbx VARCHAR(64) NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	value VARCHAR(1000) NOT NULL, 
	PRIMARY KEY (pbx, name)
)
 WITHOUT ROWID

;
INSERT INTO "progress" VALUES('pbx','table','2026-11-23 10:00:00');
CREATE TABLE schema_versions (
	component VARCHAR(64) NOT NULL, 
	version INTEGER NOT NULL, 
	changed_at VARCHAR(27) NOT NULL, 
	PRIMARY KEY (component)
);
INSERT INTO "schema_versions" VALUES('call_list',2,'2026-11-27T13:47:51.294025Z');
CREATE TABLE turns (
	pbx VARCHAR(64) NOT NULL, 
	turn BIGINT NOT NULL, 
	prunings BIGINT NOT NULL, 
	PRIMARY KEY (pbx)
)
 WITHOUT ROWID

;
INSERT INTO "turns" VALUES('pbx',2,0);
CREATE INDEX calls_by_call ON calls (linkedid, pbx);
CREATE INDEX calls_by_extension ON calls (extension, time);
CREATE INDEX calls_by_time ON calls (time);
CREATE INDEX cdrs_by_start ON cdrs (pbx, start_epoch_s);
CREATE INDEX numbers_by_key ON numbers (number_key);
CREATE INDEX numbers_by_number ON numbers (number);
COMMIT;
