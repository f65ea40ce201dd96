import java.util.Map;
import org.apache.kafka.common.errors.PolicyViolationException;
import org.apache.kafka.server.policy.CreateTopicPolicy;

/**
 * Refuses a segment.ms for topics that begin with "refused", as MSK Serverless does for all.
 *
 * A Java without a compiler runs the tests: javac --release 11 -g:none made the class beside this.
 */
public class RefuseSegmentMs implements CreateTopicPolicy {
    public void configure(Map<String, ?> configs) {}

    public void validate(RequestMetadata request) {
        boolean concerned = request.topic().startsWith("refused");
        if (concerned && request.configs().containsKey("segment.ms")) {
            throw new PolicyViolationException("segment.ms cannot be set here");
        }
    }

    public void close() {}
}
